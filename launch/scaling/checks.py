"""What is wrong with a table, by row and by name, before anything is fitted to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from launch.scaling.objective import Array
from trainer.errors import UserError

POSITIVE = ("N", "D", "C", "loss", "U")
SMALLEST_N, SMALLEST_D, SMALLEST_C = 1_000, 10_000, 1e7
LARGEST_LOSS = 20.0  # nats: above ln(vocabulary) of any tokenizer, so it is a perplexity
# A published surface (Besiroglu et al. 2024, arXiv 2404.10102) as a yardstick for units only.
YARDSTICK = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}
BITS = 1 / np.log(2)


def rows_text(rows: Sequence[int] | NDArray[np.int64], limit: int = 12) -> str:
    """Name rows: `row 3`, `rows 3, 7, 9` or `rows 3, 7, ... (40 in all)`."""
    numbers = [str(int(r)) for r in rows]
    shown = ", ".join(numbers[:limit]) + (f", ... ({len(numbers)} in all)" if len(numbers) > limit else "")
    return ("row " if len(numbers) == 1 else "rows ") + shown


def check_values(
    columns: Mapping[str, Array], row: NDArray[np.int64], *, drop_bad: bool
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which rows are usable. Bad rows raise `UserError`, or with `drop_bad` become one warning."""
    good = np.ones(len(row), bool)
    problems = []
    for name in POSITIVE:
        if name not in columns:
            continue
        values = columns[name]
        not_number, not_positive = ~np.isfinite(values), np.isfinite(values) & (values <= 0)
        if not_number.any():
            problems.append(f"{name} is missing or not a finite number in {rows_text(row[not_number])}")
        if not_positive.any():
            problems.append(f"{name} is zero or negative in {rows_text(row[not_positive])}")
        good &= ~not_number & ~not_positive
    if problems and not drop_bad:
        raise UserError("; ".join(problems) + "; mend them, or leave them out with --drop-bad")
    if not good.any():
        raise UserError("no usable row is left: " + "; ".join(problems))
    return good, [f"left out: {p}" for p in problems]


def check_units(
    columns: Mapping[str, Array],
    loss_name: str,
    perplexity: Array,
    *,
    labels: Mapping[str, NDArray[np.str_]],
    source: str,
) -> list[str]:
    """Raise `UserError` for units that cannot be right; return warnings for those that look wrong."""
    warnings = _check_loss(columns["loss"], loss_name, perplexity)
    if {"N", "D", "C"} <= columns.keys():
        warnings += _check_flops(columns)
    if {"N", "D"} <= columns.keys() and not warnings:
        warnings += _against_yardstick(columns)
    tokenizers = sorted(set(labels["tokenizer"])) if "tokenizer" in labels else []
    if len(tokenizers) > 1:
        raise UserError(
            f"{source} mixes {len(tokenizers)} tokenizers ({', '.join(t[:12] for t in tokenizers[:5])}): losses per "
            "token cannot be compared; keep one with --where tokenizer_hash=..., or use losses per byte"
        )
    return warnings


def check_sizes(columns: Mapping[str, Array], source: str) -> None:
    """Raise `UserError` for sizes that are so small that their unit must be millions or billions."""
    limits = {"N": (SMALLEST_N, "parameters"), "D": (SMALLEST_D, "tokens"), "C": (SMALLEST_C, "FLOPs")}
    for name, (smallest, unit) in limits.items():
        if name in columns and columns[name].min() < smallest:
            low, high = columns[name].min(), columns[name].max()
            guess = "billions" if high < 2_000 and low < 1 else "millions"
            if name == "D" and high < 1e5:
                guess = "billions"
            factor = {"millions": "1e6", "billions": "1e9"}[guess]
            raise UserError(
                f"{source}: {name} lies between {low:g} and {high:g}: not a number of {unit} but perhaps {guess}; "
                f'convert it with --map {name}="COLUMN*{factor}"'
            )
    if {"N", "D"} <= columns.keys() and np.median(columns["D"] / columns["N"]) > 1e6:
        n_high = columns["N"].max()
        raise UserError(
            f"{source}: N is at most {n_high:g} at {np.median(columns['D']):.3g} tokens, "
            f"{np.median(columns['D'] / columns['N']):.2g} tokens per parameter: "
            'N looks like thousands or millions; convert it, for instance with --map N="COLUMN*1e6"'
        )


def _check_loss(loss: Array, loss_name: str, perplexity: Array) -> list[str]:
    if np.median(loss) > LARGEST_LOSS:
        raise UserError(
            f"the loss column {loss_name!r} has a median of {np.median(loss):g}: that is a perplexity, not nats "
            f'per token; convert it with --map loss="ln({loss_name})"'
        )
    known = np.isfinite(perplexity) & (perplexity > 1)
    if known.any() and loss_name.lower() not in ("perplexity", "ppl"):
        ratio = float(np.median(loss[known] / np.log(perplexity[known])))
        if abs(ratio - BITS) < 0.02:
            raise UserError(
                f'the loss is in bits: 2^loss, not e^loss, is the table\'s perplexity; use --map loss="{loss_name}*ln2"'
            )
    plain = loss_name.lower().replace("-", "_")
    if any(word in plain for word in ("bits", "bpb", "bpc", "bpt")):
        return [
            f"units: the loss column {loss_name!r} is named like bits; laws want nats per token "
            f'(--map loss="{loss_name}*ln2" for bits per token)'
        ]
    if "ppl" in plain or "perplexity" in plain:
        return [f'units: {loss_name!r} is named like a perplexity; use --map loss="ln({loss_name})"']
    return []


def _check_flops(columns: Mapping[str, Array]) -> list[str]:
    ratio = columns["C"] / (6 * columns["N"] * columns["D"])
    middle = float(np.median(ratio))
    if 0.2 < middle < 5:
        return []
    return [
        f"units: C is {middle:.3g} times 6 N D (median, expected about 1): N, D or C may be in millions or "
        "billions, or C may count something else than training FLOPs"
    ]


def _against_yardstick(columns: Mapping[str, Array]) -> list[str]:
    """Compare with a published surface: a loss in bits lies 44 % too high everywhere, bits per byte far too low."""
    p = YARDSTICK
    expected = p["E"] + p["A"] / columns["N"] ** p["alpha"] + p["B"] / columns["D"] ** p["beta"]
    ratio = float(np.median(columns["loss"] / expected))
    if columns["N"].min() < 1e7 or columns["D"].min() < 1e8:
        return []  # far below the range of that surface
    if 1.33 < ratio < 1.75:
        return [
            f"units: losses are {ratio:.2f} times those of published models of these sizes; a loss in bits would be "
            "1.44 times (convert it with loss=COLUMN*ln2 in --map)"
        ]
    if ratio < 0.6:
        return [
            f"units: losses are {ratio:.2f} times those of published models of these sizes; bits or nats per byte "
            "look so. Exponents may be compared across tokenizers only then; perplexities not at all"
        ]
    return []


def find_duplicates(
    columns: Mapping[str, Array], labels: Mapping[str, NDArray[np.str_]], row: NDArray[np.int64]
) -> list[str]:
    """Warn about rows that repeat another one in size, data, loss and labels."""
    names = [n for n in ("N", "D", "C", "U", "loss", "lr", "batch") if n in columns]
    seen: dict[tuple[object, ...], int] = {}
    repeated = []
    for i in range(len(row)):
        key = tuple(columns[n][i] for n in names) + tuple(
            labels[n][i] for n in ("group", "seed", "eval_set") if n in labels
        )
        if key in seen:
            repeated.append((int(row[i]), seen[key]))
        else:
            seen[key] = int(row[i])
    if not repeated:
        return []
    pairs = ", ".join(f"{b} = {a}" for b, a in repeated[:8]) + (", ..." if len(repeated) > 8 else "")
    return [f"duplicates: {len(repeated)} rows repeat another one and count twice (row = earlier row): {pairs}"]
