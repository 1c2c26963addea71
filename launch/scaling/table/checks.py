"""Rows of a table that cannot be fitted, repeat one another, or do not belong together: by number and name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array
from trainer.contract.errors import UserError

POSITIVE = ("N", "D", "C", "loss", "U")
APART = {"tokenizer": "tokenizers", "vocab": "vocabularies", "eval_set": "evaluation sets"}


def rows_text(rows: Sequence[int] | NDArray[np.int64], limit: int = 12) -> str:
    """Name rows: `row 3`, `rows 3, 7, 9` or `rows 3, 7, ... (40 in all)`."""
    numbers = [str(int(r)) for r in rows]
    shown = ", ".join(numbers[:limit]) + (f", ... ({len(numbers)} in all)" if len(numbers) > limit else "")
    return ("row " if len(numbers) == 1 else "rows ") + shown


def check_values(
    columns: Mapping[str, Array], cells: Mapping[str, Sequence[Any]], row: NDArray[np.int64], *, drop_bad: bool
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which rows are usable. Bad rows raise `UserError`, or with `drop_bad` become one warning.

    `cells` are the values as they stand in the file, of which the first bad one is shown.
    """
    good = np.ones(len(row), bool)
    problems = []
    for name in POSITIVE:
        if name not in columns:
            continue
        values = columns[name]
        finite = np.isfinite(values)
        for bad, what in ((~finite, "is missing or not a finite number"), (finite & (values <= 0), "is not positive")):
            if bad.any():
                first = int(np.argmax(bad))
                problems.append(
                    f"{name} {what} in {rows_text(row[bad])} (row {row[first]}: {_shown(cells[name][first])})"
                )
                good &= ~bad
    if problems and not drop_bad:
        raise UserError("; ".join(problems) + "; mend them, or leave them out with --drop-bad")
    if not good.any():
        raise UserError("no usable row is left: " + "; ".join(problems))
    return good, [f"left out: {p}" for p in problems]


def _shown(cell: Any) -> str:
    text = "empty" if cell in (None, "") else repr(cell)
    return text if len(text) <= 40 else text[:37] + "..."


def check_labels(labels: Mapping[str, NDArray[np.str_]], columns: Mapping[str, str], source: str) -> list[str]:
    """Raise `UserError` where losses cannot be compared; return a warning where they hardly can.

    `columns` names the column of the file that each label comes from.
    """
    for label, what in APART.items():
        found = list(dict.fromkeys(labels[label])) if label in labels else []
        if len(found) > 1:
            raise UserError(
                f"{source} mixes {len(found)} {what} ({names_text(found)}): losses per token on them cannot be compared"
                f"; keep one with --where {columns[label]}={found[0]}"
            )
    sets = list(dict.fromkeys(labels["dataset"])) if "dataset" in labels else []
    if len(sets) > 1 and columns["dataset"] != columns.get("group"):
        where = f"--where {columns['dataset']}={sets[0]}"
        return [
            f"datasets: one law is fitted to runs on {len(sets)} of them ({names_text(sets)}); keep one with {where}"
        ]
    return []


def names_text(names: Sequence[str], limit: int = 5, letters: int = 20) -> str:
    """List names, the first few, each by its first letters: hashes are long."""
    shown = [name[:letters] or "(empty)" for name in names[:limit]]
    return ", ".join(shown) + (", ..." if len(names) > limit else "")


def find_repeats(
    columns: Mapping[str, Array], labels: Mapping[str, NDArray[np.str_]], row: NDArray[np.int64]
) -> list[str]:
    """Warn about rows that repeat another one, and about those that differ from it in nothing but the loss."""
    sizes = np.stack([np.round(np.log(columns[n]), 6) for n in ("N", "D", "C", "U", "lr", "batch") if n in columns])
    seen_runs: dict[tuple[object, ...], int] = {}
    seen_cells: dict[tuple[object, ...], int] = {}
    same, again = [], []
    for i, number in enumerate(row):
        place = (*sizes[:, i], *(labels[n][i] for n in ("group", "seed", "eval_set") if n in labels))
        run = (*place, round(float(np.log(columns["loss"][i])), 6))
        cell = (*place, *(labels[n][i] for n in ("name", "dataset") if n in labels))
        if run in seen_runs:
            same.append(f"{number} = {seen_runs[run]}")
        elif cell in seen_cells:
            again.append(f"{number} and {seen_cells[cell]}")
        seen_runs.setdefault(run, int(number))
        seen_cells.setdefault(cell, int(number))
    warnings = []
    if same:
        warnings.append(
            f"duplicates: {_rows_of(same)} repeat another one and count twice (row = earlier row): {_some_rows(same)}"
        )
    if again:
        warnings.append(
            f"repeated cells: {_rows_of(again)} with the sizes of another one but not its loss: {_some_rows(again)}. "
            "They count as runs of other seeds (--map seed=COLUMN, if so); checkpoints and other settings are not"
        )
    return warnings


def _rows_of(found: Sequence[str]) -> str:
    return "1 row" if len(found) == 1 else f"{len(found)} rows"


def _some_rows(found: Sequence[str], limit: int = 8) -> str:
    return ", ".join(found[:limit]) + (", ..." if len(found) > limit else "")
