"""Which rows of a table are results: runs that diverged or failed are left out, aloud, by name and reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launch.scaling.table.build import Numbered
from launch.scaling.table.mapping import Source, plain_name
from launch.scaling.table.oddities import chance, chance_warning
from launch.scaling.table.reading import Row
from trainer.contract.errors import UserError

STATUS_COLUMNS = ("status", "state", "runstatus", "runstate")
# As ledgers and trackers write them; a run that is still running has no end to fit.
BAD_ENDS = ("diverged", "failed", "crashed", "killed", "nan", "oom", "running", "pending", "preempted", "preempting")


def final_rows(numbered: Numbered, where: Mapping[str, str] | None, source: str) -> tuple[Numbered, list[str]]:
    """Leave out runs whose last row says that they diverged or failed, and name them with the reason.

    A run that ended badly first and was started again has a later row. `where` picks what is named, too, except by the
    evaluation set: who ended badly was evaluated on none.
    """
    last = {row["cell"]: row for _, row in numbered}
    badly = [row for row in last.values() if row.get("status", "done") != "done"]
    conditions = {column: value for column, value in (where or {}).items() if column != "eval_set"}
    named = [row for row in badly if all(str(row.get(column)) == value for column, value in conditions.items())]
    warnings = [
        f"left out, {word}: " + ", ".join(_ended_text(row) for row in named if row["status"] == word)
        for word in dict.fromkeys(str(row["status"]) for row in named)
    ]
    done = [(i, row) for i, row in numbered if row.get("status", "done") == "done"]
    if not done:
        raise UserError(f"{source} has no finished run to fit" + (f"; {'; '.join(warnings)}" if warnings else ""))
    return done, warnings


def _ended_text(row: Row) -> str:
    """Name a run that ended badly: at which step, its last finite loss, why."""
    loss = row.get("train_loss")
    parts = [
        f"step {row['step']}",
        *([] if loss is None else [f"last finite loss {loss:.4g}"]),
        row.get("reason") or "",
    ]
    return f"{row['name']} ({', '.join(part for part in parts if part)})"


def without_bad_ends(
    numbered: Numbered, sources: Mapping[str, Source], where: Mapping[str, str] | None, source: str
) -> tuple[Numbered, list[str]]:
    """Leave out the rows of anybody's table whose status says that the run ended badly, and name them.

    Whoever picks rows by that column (`where`) is taken at their word. Raises `UserError` where no row is left.
    """
    columns = dict.fromkeys(name for _, row in numbered for name in row)
    found = [column for column in columns if plain_name(str(column)) in STATUS_COLUMNS and column not in (where or {})]
    named = sources["name"].column if "name" in sources else ""
    bad = {
        number: f"{row.get(named) or f'row {number}'} ({word})"
        for column in found
        for number, row in numbered
        if (word := str(row.get(column) or "").strip().lower()) in BAD_ENDS
    }
    if not bad:
        return numbered, []
    warning = f"left out by {found[0]!r}: {', '.join(bad.values())}"
    if len(bad) == len(numbered):
        raise UserError(f"{source} has no finished run to fit; {warning}")
    return [(number, row) for number, row in numbered if number not in bad], [warning]


def chance_in_rows(rows: Sequence[Row]) -> list[str]:
    """Name the runs of a ledger whose loss is no better than chance."""
    found = [(row["name"], chance(row["loss"], row["vocab_size"], row.get("unigram_entropy"))) for row in rows]
    return chance_warning([f"{name} is {text}" for name, text in found if text])
