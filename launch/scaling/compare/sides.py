"""From ledgers to two ladders: which rows are the base's and which the variant's, and the runs of each rung."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from launch.scaling.arrays import near_groups
from launch.scaling.compare.seeds import Seed
from launch.scaling.other.changes import BASE, DONE, SEEDS, change_name
from launch.scaling.other.equal_sizes import SAME_BODY, SAME_TOKENS
from launch.scaling.table.checks import names_text
from launch.scaling.table.reading import Row, read_rows
from trainer.contract.errors import UserError, did_you_mean

TRIALS = ("optim.lr_factor", "optim.lr", "batch.tokens_per_step")  # settings of which the best one counts
LADDER = (
    *SEEDS,
    *TRIALS,
    "model.size",
    "model.d_model",
    "model.n_layers",
    "tokens",
    "steps",
)  # no change by themselves


@dataclass(frozen=True)
class Runs:
    """The runs of one side: the last row of each cell on one evaluation set, and those that ended badly."""

    name: str
    ledger: Path
    done: tuple[Row, ...]
    badly: tuple[Row, ...]
    eval_set: str
    same_init: bool = False  # the initial values are what is compared: pairs need not share their seed
    same_order: bool = False


@dataclass(frozen=True)
class RungRuns:
    """The runs of one size and length, at the best of the settings tried."""

    rows: tuple[Row, ...]
    tried: int  # settings of learning rate and batch
    at_the_end: bool  # the best learning rate is the lowest or highest tried, of three or more

    @property
    def flops(self) -> float:
        return float(np.mean([row["flops_exact"] for row in self.rows]))


def read_ledger(path: Path) -> list[Row]:
    """Return the rows of a ledger. Raises UserError for another table."""
    rows = read_rows(path).rows
    if not {"cell", "flops_exact", "params_body", "eval_set"} <= rows[0].keys():
        raise UserError(f"{path} is no ledger of a sweep: compare needs the runs' settings, seeds and evaluation sets")
    return rows


def two_sides(
    base: Path, variant: Path | None, *, group_by: str | None = None,
    names: tuple[str | None, str | None] = (None, None), where: Mapping[str, str] | None = None,
    eval_set: str | None = None,
) -> tuple[Runs, Runs]:  # fmt: skip
    """Return base and variant, of two ledgers or of two groups of one.

    Groups are values of `group_by`, a column or a setting; by default what the sweep's file changed. `names` are those
    of base and variant. Raises UserError where it is not clear which runs are meant.
    """
    if variant is not None:
        both = [_groups(path, group_by, where) for path in (base, variant)]
        chosen = [_only(groups, path, name) for groups, path, name in zip(both, (base, variant), names, strict=True)]
        sides = [(_label(path, name), path, groups[name]) for path, groups, name in
                 zip((base, variant), both, chosen, strict=True)]  # fmt: skip
    else:
        groups = _groups(base, group_by, where)
        first = names[0] or (BASE if BASE in groups else next(iter(groups)))
        others = [name for name in groups if name != first]
        for name in (first, *([names[1]] if names[1] else [])):
            if name not in groups:
                raise UserError(f"{base} has no runs of {name!r}{did_you_mean(name, groups)}")
        if names[1] is None and len(others) != 1:
            asked = "give --group-by COLUMN" if not others else f"name one with --variant: {names_text(others)}"
            raise UserError(f"{base} has {len(others)} groups of runs beside {first!r}: {asked}")
        sides = [(name, base, groups[name]) for name in (first, names[1] or others[0])]
    wanted = eval_set or _first_set(sides[0][2], sides[0][0])
    fixed = {"same_init": group_by == SEEDS[0], "same_order": group_by == SEEDS[1]}
    found = [_runs(name, path, rows, wanted, **fixed) for name, path, rows in sides]
    return found[0], found[1]


def one_side(
    ledger: Path, *, group_by: str | None = None, where: Mapping[str, str] | None = None, eval_set: str | None = None
) -> Runs:
    """Return the base of a ledger: its runs without a change, or its only ones. Raises UserError."""
    groups = _groups(ledger, group_by, where)
    name = BASE if BASE in groups else _only(groups, ledger, None)
    return _runs(name, ledger, groups[name], eval_set or _first_set(groups[name], name))


def settings_changed(base: Runs, variant: Runs, group_by: str | None) -> tuple[str, ...]:
    """Return the settings by which two groups of one sweep were told apart."""
    if group_by is not None:
        return (group_by,)
    settings = [row.get("settings") or {} for row in (*base.done, *variant.done)]
    return tuple(dict.fromkeys(key for one in settings for key in one if key not in LADDER))


def _groups(path: Path, group_by: str | None, where: Mapping[str, str] | None) -> dict[str, list[Row]]:
    """Return the rows of a ledger by group, in the order of the ledger."""
    found: dict[str, list[Row]] = {}
    rows = read_ledger(path)
    conditions = {**(where or {})}
    for column in [*conditions, *([group_by] if group_by else [])]:
        known = {key for row in rows for key in (*row, *(row.get("settings") or {}))}
        if column not in known:
            raise UserError(f"{path} has no column or setting {column!r}{did_you_mean(column, known)}")
    for row in rows:
        if all(value_of(row, column) == value for column, value in conditions.items()):
            name = change_name(row, LADDER) if group_by is None else value_of(row, group_by)
            found.setdefault(name, []).append(row)
    if not found:
        said = " ".join(f"{column}={value}" for column, value in conditions.items())
        raise UserError(f"{path} has no runs with {said}")
    return found


def value_of(row: Row, column: str) -> str:
    """Return a setting of the sweep's file, or else a column of the ledger, as text."""
    settings: Mapping[str, object] = row.get("settings") or {}
    if column in settings:
        return str(settings[column])
    return str(row[column]) if column in row else BASE


def _only(groups: Mapping[str, list[Row]], path: Path, name: str | None) -> str:
    if name is not None and name not in groups:
        raise UserError(f"{path} has no runs of {name!r}{did_you_mean(name, groups)}")
    if name is None and len(groups) > 1:
        raise UserError(
            f"{path} holds {len(groups)} kinds of runs ({names_text(list(groups))}): say which with --base and "
            "--variant, or keep one with --where COLUMN=VALUE"
        )
    return name or next(iter(groups))


def _label(path: Path, group: str) -> str:
    """Name a side by the sweep of its ledger, and its group where that says anything."""
    sweep = path.resolve() if path.is_dir() else path.resolve().parent
    return sweep.name if group == BASE else f"{sweep.name} {group}"


def _first_set(rows: Sequence[Row], name: str) -> str:
    sets = [row["eval_set"] for row in rows if row.get("status", DONE) == DONE]
    if not sets:
        raise UserError(f"no run of {name} is done")
    return str(sets[0])


def _runs(
    name: str, ledger: Path, rows: Sequence[Row], eval_set: str, *, same_init: bool = False, same_order: bool = False
) -> Runs:
    """Take the last row of each cell on the evaluation set. Raises UserError where no run has it."""
    last, ends = {}, {}
    for row in rows:
        ends[row["cell"]] = row
        if row.get("status", DONE) == DONE and row["eval_set"] == eval_set and row["loss"] is not None:
            last[row["cell"]] = row
    badly = tuple(row for row in ends.values() if row.get("status", DONE) != DONE)
    done = tuple(row for cell, row in last.items() if ends[cell].get("status", DONE) == DONE)
    if not done:
        sets = sorted({str(row["eval_set"]) for row in rows if row.get("status", DONE) == DONE})
        raise UserError(
            f"{name} has no finished run that was evaluated on {eval_set!r}"
            + (f" (there: {', '.join(sets)}): compare on one set with --eval-set" if sets else "")
        )
    return Runs(name, ledger, done, badly, eval_set, same_init, same_order)


def rungs_of(runs: Runs) -> list[RungRuns]:
    """Return the runs of each size and length, by compute, at the best of the settings tried."""
    bodies = near_groups(np.log([float(row["params_body"]) for row in runs.done]), SAME_BODY)
    tokens = near_groups(np.log([float(row["tokens"]) for row in runs.done]), SAME_TOKENS)
    found: dict[tuple[int, int], list[Row]] = {}
    for row, body, length in zip(runs.done, bodies.tolist(), tokens.tolist(), strict=True):
        found.setdefault((body, length), []).append(row)
    return sorted((_best(rows) for rows in found.values()), key=lambda rung: rung.flops)


def _best(rows: Sequence[Row]) -> RungRuns:
    """Return the runs of the setting with the lowest mean loss over its seeds."""
    tried: dict[tuple[float, int], list[Row]] = {}
    for row in rows:
        tried.setdefault((round(math.log(row["lr"]), 6), int(row["tokens_per_step"])), []).append(row)
    best = min(tried, key=lambda key: float(np.mean([row["loss"] for row in tried[key]])))
    rates = sorted({rate for rate, _ in tried})
    return RungRuns(tuple(tried[best]), len(tried), len(rates) > 2 and best[0] in (rates[0], rates[-1]))


def seed_of(row: Row, runs: Runs) -> Seed:
    """Return the seeds that a pair has to share, where they are not what is compared."""
    order = row.get("order_seed")
    order = (row.get("settings") or {}).get(SEEDS[1], row["seed"]) if order is None else order
    return "" if runs.same_init else str(row["seed"]), "" if runs.same_order else str(order)
