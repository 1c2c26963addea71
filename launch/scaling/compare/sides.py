"""From ledgers to two ladders: which rows are the base's and which the variant's, and the runs of each rung."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.scaling.other.changes import BASE, DONE, SEEDS, change_name
from launch.scaling.table.checks import names_text
from launch.scaling.table.reading import Row, read_rows, without_tuning
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
class Ledger:
    """The rows of a ledger, and where it is."""

    path: Path
    rows: Sequence[Row]


def read_ledger(path: Path) -> Ledger:
    """Return the rows of a ledger. Raises UserError for another table."""
    rows = without_tuning(read_rows(path).rows)
    if not rows:
        raise UserError(f"{path} has runs of a tuning alone: run the sweep itself, with the recipe that tuning wrote")
    if not {"cell", "flops_exact", "params_body", "eval_set"} <= rows[0].keys():
        raise UserError(f"{path} is no ledger of a sweep: compare needs the runs' settings, seeds and evaluation sets")
    return Ledger(path, rows)


@dataclass(frozen=True)
class Choice:
    """Which runs are compared, and by which loss.

    `group_by`: a column or a setting; without, groups are what the sweep's file changed. `base`, `variant`: groups, by
    default those without a change and the only others. `where`: column or setting -> value. `eval_set`: by default the
    first of the base.
    """

    group_by: str | None = None
    base: str | None = None
    variant: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    eval_set: str | None = None


def two_sides(ledger: Ledger, other: Ledger | None, choice: Choice) -> tuple[Runs, Runs]:
    """Return base and variant, of two ledgers or of two groups of one.

    Raises UserError where it is not clear which runs are meant.
    """
    groups = _groups(ledger, choice)
    if other is not None:
        base = _only(groups, ledger, choice.base)
        others = _groups(other, choice)
        variant = _only(others, other, choice.variant)
        eval_set = choice.eval_set or _first_set(groups[base], base)
        return (
            _runs(_label(ledger, base), ledger, groups[base], eval_set, choice.group_by),
            _runs(_label(other, variant), other, others[variant], eval_set, choice.group_by),
        )
    base = _known(choice.base or (BASE if BASE in groups else next(iter(groups))), groups, ledger)
    beside = [name for name in groups if name != base]
    if choice.variant is None and len(beside) != 1:
        if not beside:
            raise UserError(
                f"{ledger.path} has one ladder, and a comparison needs two: give the variant's ledger too, or tell "
                "base and variant apart with --group-by COLUMN; --power says what one ladder could see"
            )
        raise UserError(
            f"{ledger.path} has {len(beside)} groups of runs beside {base!r}: name one with --variant: "
            f"{names_text(beside)}"
        )
    variant = _known(choice.variant or beside[0], groups, ledger)
    eval_set = choice.eval_set or _first_set(groups[base], base)
    return (
        _runs(base, ledger, groups[base], eval_set, choice.group_by),
        _runs(variant, ledger, groups[variant], eval_set, choice.group_by),
    )


def one_side(ledger: Ledger, choice: Choice) -> Runs:
    """Return the base of a ledger: its runs without a change, or its only ones. Raises UserError."""
    groups = _groups(ledger, choice)
    name = BASE if BASE in groups and choice.base is None else _only(groups, ledger, choice.base)
    return _runs(name, ledger, groups[name], choice.eval_set or _first_set(groups[name], name), None)


def changes_in(ledger: Ledger) -> list[str]:
    """Return the names of what the sweep's file changed, without the base."""
    return [name for name in _groups(ledger, Choice()) if name != BASE]


def settings_changed(base: Runs, variant: Runs, group_by: str | None) -> tuple[str, ...]:
    """Return the settings by which two groups of one sweep were told apart."""
    if group_by is not None:
        return (group_by,)
    settings = [row.get("settings") or {} for row in (*base.done, *variant.done)]
    return tuple(dict.fromkeys(key for one in settings for key in one if key not in LADDER))


def _groups(ledger: Ledger, choice: Choice) -> dict[str, list[Row]]:
    """Return the rows of a ledger by group, in the order of the ledger."""
    group_by, where = choice.group_by, choice.where
    known = {key for row in ledger.rows for key in (*row, *(row.get("settings") or {}))}
    for column in [*where, *([group_by] if group_by else [])]:
        if column not in known:
            raise UserError(f"{ledger.path} has no column or setting {column!r}{did_you_mean(column, known)}")
    found: dict[str, list[Row]] = {}
    for row in ledger.rows:
        if all(value_of(row, column) == value for column, value in where.items()):
            name = change_name(row, LADDER) if group_by is None else value_of(row, group_by)
            found.setdefault(name, []).append(row)
    if not found:
        said = " ".join(f"{column}={value}" for column, value in where.items())
        raise UserError(f"{ledger.path} has no runs with {said}")
    return found


def value_of(row: Row, column: str) -> str:
    """Return a setting of the sweep's file, or else a column of the ledger, as text."""
    settings: Mapping[str, object] = row.get("settings") or {}
    if column in settings:
        return str(settings[column])
    return str(row[column]) if column in row else BASE


def _only(groups: Mapping[str, list[Row]], ledger: Ledger, name: str | None) -> str:
    if name is None and len(groups) > 1:
        raise UserError(
            f"{ledger.path} holds {len(groups)} kinds of runs ({names_text(list(groups))}): say which with --base and "
            "--variant, or keep one with --where COLUMN=VALUE"
        )
    return _known(name or next(iter(groups)), groups, ledger)


def _known(name: str, groups: Mapping[str, list[Row]], ledger: Ledger) -> str:
    if name not in groups:
        raise UserError(f"{ledger.path} has no runs of {name!r}{did_you_mean(name, groups)}")
    return name


def _label(ledger: Ledger, group: str) -> str:
    """Name a side by the sweep of its ledger, and its group where that says anything."""
    path = ledger.path.resolve()
    sweep = (path if path.is_dir() else path.parent).name
    return sweep if group == BASE else f"{sweep} {group}"


def _ending(row: Row) -> str:
    return f"{row['name']} ({row['status']} at step {row['step']})"


def _first_set(rows: Sequence[Row], name: str) -> str:
    sets = [row["eval_set"] for row in rows if row.get("status", DONE) == DONE]
    if not sets:
        raise UserError(f"no run of {name} is done")
    return str(sets[0])


def _runs(name: str, ledger: Ledger, rows: Sequence[Row], eval_set: str, group_by: str | None) -> Runs:
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
            + (f"; {len(badly)} ended badly: {names_text([_ending(row) for row in badly], 3, 80)}" if badly else "")
        )
    return Runs(name, ledger.path, done, badly, eval_set, group_by == SEEDS[0], group_by == SEEDS[1])
