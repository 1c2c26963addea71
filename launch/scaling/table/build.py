"""Build a table from rows of cells: numbers from text, what is missing derived, and everything checked on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array
from launch.scaling.table.checks import check_labels, check_values, find_repeats, rows_text
from launch.scaling.table.mapping import LABELS, NUMERIC, PERPLEXITIES, Source, plain_name
from launch.scaling.table.oddities import diverged, far_off, no_better_than_chance
from launch.scaling.table.reading import Row
from launch.scaling.table.rows import best_settings
from launch.scaling.table.table import Table
from launch.scaling.table.units import check_derived, check_flops, check_loss, check_sizes
from trainer.contract.errors import UserError, did_you_mean

Numbered = list[tuple[int, Row]]  # rows with their 1-based number in the file


def keep_where(numbered: Numbered, where: Mapping[str, str] | None, source: str) -> Numbered:
    """Keep the rows whose columns equal these values. Raises `UserError` where none does."""
    for column, value in (where or {}).items():
        columns = dict.fromkeys(name for _, row in numbered for name in row)
        if column not in columns:
            raise UserError(f"{source} has no column {column!r}{did_you_mean(column, columns)}")
        seen = list(dict.fromkeys(str(row.get(column)) for _, row in numbered))
        numbered = [(i, row) for i, row in numbered if str(row.get(column)) == value]
        if not numbered:
            more = f", ... ({len(seen)} in all)" if len(seen) > 12 else ""
            raise UserError(f"no row of {source} has {column} = {value!r}; seen: {', '.join(sorted(seen[:12]))}{more}")
    return numbered


def build_table(
    numbered: Numbered,
    sources: Mapping[str, Source],
    source: str,
    digest: str,
    *,
    drop_bad: bool,
    by_position: Sequence[Sequence[float]] = (),
    own: bool = False,
    every_row: bool = False,
    trials: bool = False,
) -> Table:
    """Build a table of rows; `sources` says which column each quantity is in.

    `own` rows are a ledger's: their counts are numbers of parameters and tokens, however small. Raises `UserError` for
    what cannot be right; what looks wrong becomes a warning of the table. Runs that diverged are left out, and so are
    trials of settings but the best of each cell (unless `trials` asks for them); with `every_row` nothing is.
    """
    rows = [row for _, row in numbered]
    cells = {t: [r.get(s.column) for r in rows] for t, s in sources.items()}
    columns = {
        t: np.array([sources[t].number(cell) for cell in found])
        for t, found in cells.items()
        if t in NUMERIC and any(cell not in (None, "") for cell in found)
    }
    if "loss" not in columns:
        raise UserError(_no_loss(dict.fromkeys(name for row in rows for name in row), source))
    if not {"N", "D", "C"} & columns.keys():
        names = ", ".join(dict.fromkeys(str(name) for row in rows for name in row))
        raise UserError(f"{source} has no column of N, D or C: its columns are {names} (--map N=COLUMN)")
    labels = {t: np.array(["" if cell is None else str(cell) for cell in cells[t]]) for t in cells if t in LABELS}
    number = np.array([i for i, _ in numbered])
    filled = [] if own else _fill_flops(columns, cells, number)
    good, warnings = check_values(columns, cells, number, drop_bad=drop_bad)
    table = Table(source, digest, columns, number, labels, by_position).select(good)
    if not own:  # our own counts are numbers of parameters and tokens, however small
        check_sizes(table.columns, table.row, source)
    columns, notes = _derive(dict(table.columns))
    if not own:
        warnings += check_derived(columns, notes, source, sources)
    if {"N", "D", "C"} <= table.columns.keys():
        warnings += check_flops(columns, table.row)
    warnings += check_loss(columns, sources["loss"], _perplexity(rows)[good], table.row)
    warnings += check_labels(table.labels, {t: s.column for t, s in sources.items()}, source)
    table = replace(table, columns=columns, notes=(*notes, *filled))
    table, left_out = (table, []) if every_row else _one_row_a_run(table, trials)
    warnings += left_out
    warnings += find_repeats(table.columns, table.labels, table.row)
    warnings += no_better_than_chance(table.columns, table.labels, table.row)
    warnings += far_off(table.columns, table.labels, table.row)
    return replace(table, warnings=tuple(warnings))


def _one_row_a_run(table: Table, trials: bool) -> tuple[Table, list[str]]:
    """Leave out runs that diverged and, unless `trials` are wanted, all settings but the best of each cell."""
    said: list[str] = []
    if not trials:
        keep, said = best_settings(table.columns, table.labels)
        table = table.select(keep)
    keep, more = diverged(table.columns, table.labels, table.row)
    return table.select(keep), [*said, *more]


def _fill_flops(columns: Mapping[str, Array], cells: Mapping[str, Sequence[Any]], row: NDArray[np.int64]) -> list[str]:
    """Fill in C by C = 6 N D where a table that gives N and D left it empty."""
    if not {"N", "D", "C"} <= columns.keys():
        return []
    empty = np.array([cell in (None, "") for cell in cells["C"]])
    columns["C"][empty] = 6 * columns["N"][empty] * columns["D"][empty]
    return [f"C = 6 N D in {rows_text(row[empty])}"] if empty.any() else []


def _no_loss(columns: Iterable[str], source: str) -> str:
    text = f"{source} has no loss column; its columns, by the header, are {', '.join(map(str, columns))}"
    perplexity = next((c for c in columns if plain_name(str(c)) in PERPLEXITIES), None)
    return f"{text} (--map loss={'COLUMN' if perplexity is None else f'ln({perplexity})'})"


def _perplexity(rows: Sequence[Row]) -> Array:
    """Return the table's own perplexities, NaN where it has none."""
    column = next((name for name in rows[0] if plain_name(name) in PERPLEXITIES), "")
    return np.array([Source(column).number(row.get(column)) for row in rows])


def _derive(columns: dict[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """Fill in the third of N, D, C by C = 6 N D (Kaplan et al. 2020, section 2.1)."""
    if {"N", "C"} <= columns.keys() and "D" not in columns:
        columns["D"] = columns["C"] / (6 * columns["N"])
        return columns, ["D = C / (6 N)"]
    if {"N", "D"} <= columns.keys() and "C" not in columns:
        columns["C"] = 6 * columns["N"] * columns["D"]
        return columns, ["C = 6 N D"]
    if {"D", "C"} <= columns.keys() and "N" not in columns:
        columns["N"] = columns["C"] / (6 * columns["D"])
        return columns, ["N = C / (6 D)"]
    return columns, []
