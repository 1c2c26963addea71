"""What a row is: the end of a run, a checkpoint on the way, a trial of a setting, or a run that diverged.

The columns that name it decide: run, step, total steps, learning rate, batch. Laws are fitted to one row a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array
from launch.scaling.table.checks import names_text, rows_text
from launch.scaling.table.mapping import Source, plain_name
from launch.scaling.table.reading import Row
from trainer.contract.errors import UserError

RowsAre = Literal["auto", "last", "all"]
ROWS_ARE: tuple[RowsAre, ...] = ("auto", "last", "all")
SETTINGS = ("lr", "batch")
APART = ("group", "seed", "eval_set", "dataset", "tokenizer")  # rows of one name that differ in these are other runs
SIZE_NAMES = ("model", "modelname")  # columns that name a size, of which several lengths are several runs
REACHED = 0.999  # of the planned steps
Numbered = list[tuple[int, Row]]


def last_checkpoints(
    numbered: Numbered, sources: Mapping[str, Source], source: str, rows_are: RowsAre
) -> tuple[Numbered, list[str]]:
    """Keep the last row of each run, and leave out runs that stopped before their last planned step.

    Rows are checkpoints where one run has several steps. `last` says so of rows that no step tells apart, `all` that
    every row is a run. Raises `UserError` where the columns cannot tell.
    """
    if rows_are == "all":
        return numbered, []
    runs = _runs(numbered, sources)
    several = [members for members in runs.values() if _along_one_run(members, sources)]
    if several and rows_are == "auto" and not _steps_tell(sources):
        if "name" in sources and plain_name(sources["name"].column) in SIZE_NAMES:
            several = []
        else:
            _refuse_unclear(several[0], sources, source)
    kept, said = numbered, []
    if several:
        early = {n for members in several for n, _ in sorted(members, key=lambda m: _place(m[1], sources))[:-1]}
        kept = [(n, row) for n, row in numbered if n not in early]
        said = [f"left out: {len(early)} checkpoints before the last one of {len(several)} runs (--rows all fits them)"]
    return _without_unfinished(kept, sources, source, said)


def _runs(numbered: Numbered, sources: Mapping[str, Source]) -> dict[tuple[Any, ...], Numbered]:
    """Group rows by the run that they belong to: by its name, else by its size and settings."""
    keys = [sources["name"]] if "name" in sources else [sources[t] for t in ("N", *SETTINGS) if t in sources]
    keys += [sources[t] for t in APART if t in sources]
    found: dict[tuple[Any, ...], Numbered] = {}
    for number, row in numbered:
        found.setdefault(tuple(str(row.get(key.column)) for key in keys), []).append((number, row))
    return found


def _along_one_run(members: Numbered, sources: Mapping[str, Source]) -> bool:
    """Return whether rows of one name are points along one run: of one size, at different steps or tokens."""
    if len(members) < 2 or ("name" not in sources and "step" not in sources):
        return False
    sizes = {sources["N"].number(row.get(sources["N"].column)) for _, row in members} if "N" in sources else {0.0}
    places = [_place(row, sources) for _, row in members]
    return len(sizes) == 1 and len(set(places)) == len(places) and not any(map(math.isnan, places))


def _place(row: Row, sources: Mapping[str, Source]) -> float:
    """Return how far along its run a row is: its step, else its tokens or FLOPs; NaN where nothing says it."""
    by = next((sources[t] for t in ("step", "D", "C") if t in sources), None)
    return math.nan if by is None else by.number(row.get(by.column))


def _steps_tell(sources: Mapping[str, Source]) -> bool:
    """Return whether the columns say that several rows of one run are its checkpoints."""
    return "step" in sources and bool({"name", "total_steps"} & sources.keys())


def _refuse_unclear(members: Numbered, sources: Mapping[str, Source], source: str) -> None:
    """Raise `UserError` about rows that may be checkpoints of one run or runs of several lengths."""
    named = sources.get("name")
    rows = rows_text([number for number, _ in members], limit=4)
    what = "have one size" if named is None else f"are all {named.column} {members[0][1].get(named.column)!r}"
    raise UserError(
        f"{source}: {rows} {what}: are they checkpoints of one run, or runs of several lengths? A law needs the ends "
        "of runs. Say --rows last (checkpoints: keep the last of each) or --rows all (every row is a run), or name "
        "the columns: --map name=COLUMN,step=COLUMN"
    )


def _without_unfinished(
    numbered: Numbered, sources: Mapping[str, Source], source: str, said: list[str]
) -> tuple[Numbered, list[str]]:
    """Leave out rows whose step is before the planned last one: their learning rate has not decayed."""
    if not {"step", "total_steps"} <= sources.keys():
        return numbered, said
    step, planned = sources["step"], sources["total_steps"]
    done: Numbered = []
    early: Numbered = []
    for number, row in numbered:
        at, last = step.number(row.get(step.column)), planned.number(row.get(planned.column))
        (early if at < REACHED * last else done).append((number, row))
    if not early:
        return numbered, said
    texts = [
        f"{_name(row, sources) or f'row {number}'} (step {row.get(step.column)} of {row.get(planned.column)})"
        for number, row in early
    ]
    warning = f"left out, stopped before the last step: {names_text(texts, limit=8, letters=60)}"
    if not done:
        raise UserError(f"{source} has no run that reached its last step; {warning}; --rows all fits them all the same")
    return done, [*said, warning]


def _name(row: Row, sources: Mapping[str, Source]) -> str:
    return str(row.get(sources["name"].column) or "") if "name" in sources else ""


def rows_with(setting: str, numbered: Numbered, sources: Mapping[str, Source]) -> tuple[Numbered, list[str]]:
    """Leave out rows whose cell of this setting is empty: they are no trials of it. An empty setting keeps all."""
    if setting not in sources:
        return numbered, []
    column = sources[setting].column
    kept = [(number, row) for number, row in numbered if row.get(column) not in (None, "")]
    without = [number for number, row in numbered if row.get(column) in (None, "")]
    if not without or not kept:
        return numbered, []
    return kept, [f"left out: {rows_text(without)} without {column}, no trials of it"]


def best_settings(
    columns: Mapping[str, Array], labels: Mapping[str, NDArray[np.str_]]
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which rows have the best learning rate and batch of their cell, and what to say about the others.

    A cell is one N, D and U of one family and data set. Where a setting has several seeds, its mean loss counts and all
    of them are kept. A cell whose best learning rate lies at an end of those tried is counted in the warning.
    """
    keep = np.ones(len(columns["loss"]), bool)
    settings = [s for s in SETTINGS if s in columns]
    sizes = [np.round(np.log(columns[n]), 6) for n in ("N", "D", "U") if n in columns]
    if not settings or len(sizes) < 2:
        return keep, []
    cell = _group([*sizes, *(labels[n] for n in APART if n in labels and n != "seed")])
    tried = _group([cell, *(np.round(np.log(columns[s]), 6) for s in settings)])
    mean = np.bincount(tried, columns["loss"]) / np.bincount(tried)
    lowest = np.full(cell.max() + 1, np.inf)
    np.minimum.at(lowest, cell, mean[tried])
    keep = mean[tried] <= lowest[cell]
    if keep.all():
        return keep, []
    swept = np.unique(cell[~keep])
    what = " and ".join(
        {"lr": "learning rate", "batch": "batch size"}[s] for s in settings if _varies(columns[s], cell)
    )
    text = f"left out: {int((~keep).sum())} trials of another {what} than the best of their cell, in {len(swept)} cells"
    edge = sum(_at_the_end(columns["lr"], cell == c, keep) for c in swept) if "lr" in columns else 0
    text += f"; in {edge} of them the best learning rate is at the end of those tried" if edge else ""
    return keep, [text + " (--rows all fits them)"]


def _group(keys: list[Any]) -> NDArray[np.int64]:
    """Number the combinations of several keys (n,). Empty cells, NaN, are one value."""
    numbered = [np.unique(key, return_inverse=True)[1].ravel() for key in keys]
    return np.asarray(np.unique(np.stack(numbered), axis=1, return_inverse=True)[1]).ravel()


def _varies(values: Array, cell: NDArray[np.int64]) -> bool:
    """Return whether any cell (n,) has several of these values (n,)."""
    return len(np.unique(_group([values, cell]))) > len(np.unique(cell))


def _at_the_end(lr: Array, mine: NDArray[np.bool_], keep: NDArray[np.bool_]) -> bool:
    tried, best = lr[mine & np.isfinite(lr)], lr[mine & keep][0]
    return len(np.unique(tried)) > 2 and best in (tried.min(), tried.max())
