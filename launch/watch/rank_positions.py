"""Which rank the others waited for: the last collectives that ranks left behind, side by side, and their stacks.

Ranks leave `position_<r>.json` (`trainer/guard/position.py`) and `stacks_<r>.txt` (`trainer/node/stacks.py`) beside
their logs. A collective begins on all ranks of its group, so the one that began fewer is the one that stood still.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from launch.watch.evidence import Evidence, newest_logs_of
from launch.watch.traces import main_stack
from trainer.contract.plain_json import DamagedFileError, read_object
from trainer.contract.run_dir import RunDir

MOST_LINES = 8  # about ranks
Position = dict[str, Any]


def waited_for(run_dir: RunDir) -> Evidence:
    """Return where each rank was, and which the others waited for where their collectives tell."""
    logs = newest_logs_of(run_dir)
    if logs is None:
        return Evidence()
    known = positions(logs)
    late = latecomer(known, _ranks(logs))
    lines = [f"{_ranks_text(ranks)}: {text}" for text, ranks in _alike(known).items()]
    silent = sorted(_ranks(logs) - set(known))
    if silent and known:
        lines.append(f"{_ranks_text(silent)}: left no word")
    stacks = {rank: main_stack(logs / f"stacks_{rank}.txt") for rank in sorted(_ranks(logs))}
    lines += [f"rank {rank} at {stack[0].strip()}" for rank, stack in stacks.items() if stack and rank != late]
    shown = lines[:MOST_LINES] + ([f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else [])
    if late is None:
        return Evidence(shown)
    host = str(known.get(late, {}).get("host", ""))
    helps = f"rank {late} stood still: look at its stack, and at its host{f' {host}' if host else ''}"
    return Evidence(shown, helps, rank=late, host=host, stack=stacks.get(late, []))


def positions(logs: Path) -> dict[int, Position]:
    """Return what ranks left about where they were, by rank."""
    found = {}
    for path in sorted(logs.glob("position_*.json")):
        try:
            row = read_object(path, "rank")
            found[int(row["rank"])] = row
        except (FileNotFoundError, DamagedFileError, TypeError, ValueError):
            continue
    return found


def latecomer(known: dict[int, Position], ranks: set[int]) -> int | None:
    """Return the one rank that began fewer collectives than a group that waits; None where that is none or several.

    One that says nothing while all others wait in the same collective counts too: it is stuck in code that lets nothing
    else run.
    """
    waiting = {(c["group"], c["number"]) for row in known.values() for c in _collectives(row) if not c["finished"]}
    if not waiting:  # the recorder may call one ended that ended with an error
        ended = [row for row in known.values() if row.get("why") == "it ended with an error"]
        waiting = {(c["group"], c["number"]) for row in ended for c in _collectives(row)[:1]}
    for group, number in sorted(waiting, key=str):
        began = {rank: _number(row, group) for rank, row in known.items()}
        late = [rank for rank, last in began.items() if last is not None and last < number]
        silent = sorted(ranks - set(known))
        if not late and len(silent) == 1 and len(known) > 0 and all(last == number for last in began.values()):
            late = silent
        if len(late) == 1:
            return late[0]
    return None


def _alike(known: dict[int, Position]) -> dict[str, list[int]]:
    by_text: dict[str, list[int]] = defaultdict(list)
    for rank, row in sorted(known.items()):
        collectives = _collectives(row)
        waiting = [c for c in collectives if not c["finished"]]
        text = "has begun no collective"
        if collectives:
            text = f"waits in {_name(waiting[0])}" if waiting else f"has ended {_name(collectives[0])}"
        by_text[text].append(rank)
    return by_text


def _name(collective: dict[str, Any]) -> str:
    sizes = "+".join("x".join(map(str, size)) or "1" for size in collective["sizes"])
    name = str(collective["name"]).rpartition(":")[2]
    return f"{name} {collective['number']} of group {collective['group']} ({sizes})"


def _collectives(row: Position) -> list[dict[str, Any]]:
    keys = {"group", "number", "name", "sizes", "finished"}
    rows = row.get("collectives")
    return [c for c in rows if isinstance(c, dict) and keys <= set(c)] if isinstance(rows, list) else []


def _number(row: Position, group: str) -> int | None:
    return next((int(c["number"]) for c in _collectives(row) if c["group"] == group), None)


def _ranks(logs: Path) -> set[int]:
    names = (path.stem.removeprefix("rank_") for path in logs.glob("rank_*.log"))
    return {int(name) for name in names if name.isdigit()}


def _ranks_text(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'s' * (len(ranks) > 1)} {shown}"
