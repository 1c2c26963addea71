"""How far a sweep is, for whoever asks. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.cluster.job import JobStatus
from launch.cluster.registry import Submitted
from launch.run.data_preparation import is_prepared
from launch.run.newest_step import newest_step
from launch.run.run_state import loss_of_progress, state_of
from launch.sweep.cells.cell import Cell
from launch.sweep.cells.config import load_sweep
from launch.sweep.cells.former import former_names
from launch.sweep.execute.observe import scheduled
from launch.sweep.execute.opened import cells_in
from launch.sweep.ledger import ledger
from trainer.contract.plain_json import DamagedFileError, read_lines, read_object
from trainer.contract.run_dir import RunDir, Status


def sweep_status(config: Path, assignments: tuple[str, ...], runs: Path) -> dict[str, Any]:
    """Return the state of every cell, from the run directories, the scheduler and the ledger. Changes nothing."""
    sweep = load_sweep(config, assignments)
    directory = runs / sweep.name
    known = cells_in(sweep, directory)
    run_dirs = {cell.id: RunDir(directory / "cells" / cell.id) for cell in known}
    jobs = scheduled(list(run_dirs.values()))
    rows = list(ledger.read(directory / "ledger.jsonl"))
    former = former_names(known, {row["cell"]: row for row in rows})
    remarks = {row["cell"]: str(row.get("reason", "")) for row in rows if row.get("status") == "done"}
    cells = [_cell_state(cell, run_dirs[cell.id], jobs, remarks.get(cell.id, "")) for cell in known]
    return {
        "sweep": sweep.name,
        "directory": str(directory),
        "data_prepared": all(is_prepared(cell.config.data) for cell in known),
        **{word: sum(1 for cell in cells if cell["state"] == word) for word in ("done", "diverged", "failed", "dead")},
        "ledger": str(directory / "ledger.jsonl"),
        "ledger_rows": len(rows),
        "ledger_damaged_lines": read_lines(directory / "ledger.jsonl").damaged,
        "former_names": former,
        "cells": cells,
    }


def _cell_state(
    cell: Cell, run_dir: RunDir, jobs: dict[RunDir, tuple[Submitted, JobStatus]], remark: str
) -> dict[str, Any]:
    row = newest_step(run_dir) or {}
    found, job = state_of(run_dir), None
    state, reason = found.word, found.reason or (remark if found.word == Status.DONE else "")
    if run_dir in jobs:
        submitted, known = jobs[run_dir]
        state, reason, job = known.state.value, known.reason, submitted.job
    return {
        "id": cell.id,
        "state": state,
        "step": row.get("step", 0),
        "steps": _steps(run_dir),
        "loss": row.get("loss"),
        "run_dir": str(run_dir.root),
        "job": job,
        "reason": "; ".join(text for text in (reason, loss_of_progress(run_dir)) if text),
    }


def _steps(run_dir: RunDir) -> int | None:
    try:
        return int(read_object(run_dir.plan, "steps")["steps"])
    except (FileNotFoundError, DamagedFileError, TypeError, ValueError):
        return None
