"""Whether sizes are numbers of parameters, tokens and FLOPs, and losses nats per token."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array
from launch.scaling.table.checks import rows_text
from launch.scaling.table.mapping import Source
from launch.scaling.table.unit_causes import YARDSTICK_D, YARDSTICK_N, check_cause, expected_loss, likely_unit
from trainer.contract.errors import UserError

SMALLEST = {"N": (1_000, "parameters"), "D": (10_000, "tokens"), "C": (1e7, "FLOPs")}
GAP = 100.0  # between rows of one table; a wider one means two units
LARGEST_LOSS = 14.0  # nats: about ln(vocabulary) of the largest tokenizers, which guessing reaches
MOST_TOKENS, FEWEST_TOKENS = 1e6, 0.05  # per parameter, median
SAME, OFF = 0.02, 1.15  # C over 6 N D: a ratio that hardly varies, and differs from 1 by more than this factor
LOGARITHMS = {"in bits": (1 / np.log(2), "*ln2"), "a logarithm to base 10": (1 / np.log(10), "*2.302585")}


def check_sizes(columns: Mapping[str, Array], row: NDArray[np.int64], source: str) -> None:
    """Raise `UserError` for sizes as given that are so small that they, or some rows of them, have another unit."""
    for name, (smallest, unit) in SMALLEST.items():
        if name not in columns or columns[name].min() >= smallest:
            continue
        values = columns[name]
        small = values < smallest
        if not small.all() and values[~small].min() > GAP * values[small].max():
            raise UserError(
                f"{source}: {name} is at most {values[small].max():g} in {rows_text(row[small])} and at least "
                f"{values[~small].min():g} in the others: not all are numbers of {unit}; mend them (70M is 70e6)"
            )
        guess, factor = likely_unit(columns, name) or _guess(name, float(values.min()), float(values.max()))
        raise UserError(
            f"{source}: {name} lies between {values.min():g} and {values.max():g}: not a number of {unit} but perhaps "
            f'{guess}; convert it with --map {name}="COLUMN*{factor}"'
        )


def _guess(name: str, low: float, high: float) -> tuple[str, str]:
    if name == "C":
        return "PF-days (or units of 1e18: COLUMN*1e18)", "8.64e19"
    if name == "D" and high < 1:
        return "trillions", "1e12"
    billions = (high < 2_000 and low < 1) or (name == "D" and high < 1e5)
    return ("billions", "1e9") if billions else ("millions", "1e6")


def check_derived(
    columns: Mapping[str, Array], notes: list[str], source: str, sources: Mapping[str, Source]
) -> list[str]:
    """Raise `UserError` for a size from C = 6 N D that cannot be; return warnings for a strange D/N and C."""
    for note in notes:
        name = note[0]
        smallest, unit = SMALLEST[name]
        low, high = columns[name].min(), columns[name].max()
        if low < smallest:
            others = " or ".join(n for n in ("N", "D", "C") if n != name)
            raise UserError(
                f"{source}: {note} lies between {low:.3g} and {high:.3g} {unit}: {others} has another unit, or C "
                f'is not the FLOPs of the whole training; convert with --map {others[0]}="COLUMN*..."'
            )
    if not {"N", "D"} <= columns.keys():
        return []
    check_cause(columns, source, sources)
    ratio = float(np.median(columns["D"] / columns["N"]))
    sizes = f"N is at most {columns['N'].max():.3g} at {np.median(columns['D']):.3g} tokens, {ratio:.2g} per parameter"
    if ratio > MOST_TOKENS:
        raise UserError(
            f'{source}: {sizes}: N looks like thousands or millions; convert it, for instance with --map N="COLUMN*1e6"'
        )
    if ratio < FEWEST_TOKENS:
        return [f"units: {sizes}: D may be in thousands, or count sequences or steps (D=COLUMN*2048 in --map)"]
    return []


def check_flops(columns: Mapping[str, Array], row: NDArray[np.int64]) -> list[str]:
    """Warn where a given C is not about 6 N D: everywhere by about the same factor, or in some rows."""
    ratio = columns["C"] / (6 * columns["N"] * columns["D"])
    middle = float(np.median(ratio))
    constant = len(ratio) > 1 and np.std(np.log(ratio)) < SAME and not 1 / OFF < middle < OFF
    warnings = []
    if constant or not 0.2 < middle < 5:
        warnings.append(
            f"units: C is {middle:.3g} times 6 N D (median, expected about 1): N, D or C may be in another unit, or C "
            "may count something else: multiply-adds (0.5), a forward pass (0.33), recomputed activations (1.33)"
        )
    astray = np.abs(np.log(ratio / middle)) > np.log(10.0)
    if astray.any() and not constant:
        worst = ratio[astray][np.argmax(np.abs(np.log(ratio[astray] / middle)))]
        warnings.append(
            f"units: C is far from 6 N D in {rows_text(row[astray])} (up to {worst:.3g} times; median {middle:.3g})"
        )
    return warnings


def check_loss(columns: Mapping[str, Array], source: Source, perplexity: Array, row: NDArray[np.int64]) -> list[str]:
    """Raise `UserError` for losses that cannot be nats per token; return warnings for those that look otherwise.

    `perplexity` is the table's own, NaN where it has none.
    """
    loss, name = columns["loss"], source.column
    plain = name.lower().replace("-", "_")
    if np.median(loss) > LARGEST_LOSS:
        raise UserError(
            f"the loss column {name!r} has a median of {np.median(loss):g}: that is a perplexity, not nats per token; "
            f'convert it with --map loss="ln({name})"'
        )
    known = np.isfinite(perplexity) & (perplexity > 1)
    if known.any() and not source.logarithm:
        ratio = float(np.median(loss[known] / np.log(perplexity[known])))
        for what, (factor, convert) in LOGARITHMS.items():
            if abs(ratio / factor - 1) < 0.02:
                raise UserError(
                    f"the loss is {what}: it is {ratio:.3f} times the natural logarithm of the table's perplexity; use "
                    f'--map loss="{name}{convert}"'
                )
    if not source.converts and any(word in plain for word in ("bits", "bpb", "bpc", "bpt")):
        return [
            f"units: the loss column {name!r} is named like bits; laws want nats per token "
            f'(--map loss="{name}*ln2" for bits per token)'
        ]
    if not source.converts and ("ppl" in plain or "perplexity" in plain):
        return [f'units: {name!r} is named like a perplexity; use --map loss="ln({name})"']
    high = loss > LARGEST_LOSS
    odd = [f"losses above {LARGEST_LOSS:g} nats, worse than guessing, in {rows_text(row[high])}"] if high.any() else []
    return odd + (_against_yardstick(columns) if {"N", "D"} <= columns.keys() else [])


def _against_yardstick(columns: Mapping[str, Array]) -> list[str]:
    """Compare with a published surface: a loss in bits lies 44 % too high everywhere, bits per byte far too low."""
    if columns["N"].min() < YARDSTICK_N or columns["D"].min() < YARDSTICK_D:
        return []
    expected = expected_loss(columns["N"], columns["D"])
    ratio = float(np.median(columns["loss"] / expected))
    if 0.45 <= ratio <= 1.33:
        return []
    text = f"units: losses are {ratio:.2f} times those of published models of text of these sizes; "
    if ratio < 0.45:
        return [
            text
            + "losses on code look so, and bits or nats per byte, whose exponents may be compared across tokenizers "
            "and whose perplexities may not"
        ]
    if ratio < 1.75:
        return [text + "a loss in bits would be 1.44 times (convert it with loss=COLUMN*ln2 in --map)"]
    logs = float(np.median(np.log(columns["loss"]) / expected))
    return [text + f"their logarithms are {logs:.2f} times: a perplexity looks so (loss=ln(COLUMN) in --map)"]
