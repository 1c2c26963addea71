"""The finished runs of a sweep, from its ledger: the rows name the run directories, and those have the curves."""

from __future__ import annotations

import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path

from launch.scaling.live.runs import Finished, read_finished
from launch.scaling.table.reading import without_tuning
from trainer.contract.errors import UserError
from trainer.contract.plain_json import read_lines
from trainer.contract.run_dir import RunDir

HELD_OUT = "held_out"


def finished_runs(place: Path) -> tuple[list[Finished], str]:
    """Return the finished runs of a ledger, or of the sweep's directory that holds it, and the set they are scored on.

    Raises `UserError` where there are none with a curve. Some without one are left out, with a warning.
    """
    path = place / "ledger.jsonl" if place.is_dir() else place
    if not path.is_file():
        raise UserError(f"no ledger: {path} (a sweep writes RUNS/NAME/ledger.jsonl as its cells finish)")
    ended = without_tuning(read_lines(path).rows)
    rows = [row for row in ended if row.get("status", "done") == "done" and row.get("run_dir")]
    sets = Counter(str(row["eval_set"]) for row in rows if row.get("eval_set"))
    if not sets:
        raise UserError(f"{path} has no finished run: an expected curve is made from finished runs")
    eval_set = HELD_OUT if HELD_OUT in sets else sets.most_common(1)[0][0]
    found: dict[str, Finished] = {}
    problems: list[str] = []
    for directory in dict.fromkeys(_directory(row["run_dir"], path) for row in rows):
        try:
            found[directory.name] = cached(RunDir(directory), eval_set)
        except UserError as error:
            problems.append(str(error))
    if not found:
        raise UserError(f"no run of {path} has a curve that can be used: {problems[0]}")
    if problems:
        print(f"warning: {len(problems)} of {len(rows)} rows are left out: {problems[0]}", file=sys.stderr)
    return list(found.values()), eval_set


def _directory(named: str, ledger: Path) -> Path:
    """Return where a run is: where its row says, or beside a ledger that was moved together with its runs."""
    moved = ledger.parent / "cells" / Path(named).name
    return Path(named) if Path(named).is_dir() or not moved.is_dir() else moved


def cached(run_dir: RunDir, eval_set: str) -> Finished:
    """Read a finished run once: it does not change any more. Raises `UserError`."""
    try:
        stamp = run_dir.result.stat().st_mtime_ns
    except OSError:
        stamp = 0
    return _read(run_dir, eval_set, stamp)


@lru_cache(maxsize=4096)
def _read(run_dir: RunDir, eval_set: str, _stamp: int) -> Finished:
    return read_finished(run_dir, eval_set)
