"""The story of a sweep on a cluster: submit what is missing, ask how it stands, go on, and report when all is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from launch.backends.cluster import ClusterConfig, load_cluster, open_backend
from launch.data_preparation import is_prepared
from launch.job import JobSpec
from launch.plan_table import sweep_table
from launch.runs_root import runs_flag
from launch.sweep import ledger
from launch.sweep.cell import Cell
from launch.sweep.cells import cells_of
from launch.sweep.collect import collect
from launch.sweep.config import load_sweep
from launch.sweep.opened import Opened, locked, open_sweep
from launch.sweep.progress import last_step
from launch.sweep.run import CellProgress, failure_of, ready
from launch.sweep.story import Result, failure_text, report, run_sweep
from launch.sweep.submit import (
    SCHEDULED,
    Standing,
    array_of,
    check_shape,
    recorded_cluster,
    rehearse,
    scheduled,
    send,
    standing,
)
from trainer.errors import UserError
from trainer.run_dir import RunDir, Status


def submit_sweep(
    config: Path,
    assignments: tuple[str, ...],
    runs: Path,
    name: str,
    console: Console,
    *,
    failed: bool = False,
    at_most: int | None = None,
    dry_run: bool = False,
) -> Result:
    """Send every cell that is missing to a cluster as one array. Raises UserError, before anything is sent.

    Machines that are driven from here (SSH, this one) run the cells one after another until all have ended.
    """
    cluster, sweep = load_cluster(name), load_sweep(config, assignments)
    check_shape(sweep, cluster, name)
    if cluster.backend not in SCHEDULED and at_most is not None:
        raise UserError(f"--at-most has no effect on {cluster.backend}: its nodes and ranks_per_node are the limit")
    if not dry_run:
        rehearse(sweep, runs.resolve() / sweep.name, cluster, at_most)
    if cluster.backend not in SCHEDULED:
        where = runs.resolve()
        return run_sweep(config, assignments, where, console, dry_run=dry_run, failed=failed, cluster=cluster)
    opened = open_sweep(config, assignments, runs.resolve(), gpu=cluster.gpu is not None)
    if dry_run:
        console.print(sweep_table(opened.plans, {}, console.width))
        print(open_backend(cluster).render(_array(opened, ready(opened.cells, opened.cells), cluster, at_most)), end="")
        return Result()
    with locked(opened):
        return _go_on(opened, cluster, name, config, console, failed=failed, at_most=at_most)


def resume_sweep(
    config: Path,
    assignments: tuple[str, ...],
    runs: Path,
    console: Console,
    *,
    failed: bool,
    at_most: int | None,
) -> Result:
    """Go on with a sweep where it was last: take in what has ended, send what is missing, report when all is done."""
    sweep = load_sweep(config, assignments)
    directory = runs / sweep.name
    if not (directory / "sweep.json").exists():
        raise UserError(f"sweep {sweep.name!r} has not been started under {runs}: use 'escala sweep run' or 'submit'")
    name = recorded_cluster(directory)
    if name is not None:
        return submit_sweep(config, assignments, runs, name, console, failed=failed, at_most=at_most)
    if at_most is not None:
        raise UserError(
            "--at-most has an effect on arrays of Slurm and Kubernetes only; this sweep ran on this machine"
        )
    return run_sweep(config, assignments, runs, console, failed=failed)


def _go_on(
    opened: Opened, cluster: ClusterConfig, name: str, config: Path, console: Console, *, failed: bool,
    at_most: int | None,
) -> Result:  # fmt: skip
    collect([p.cell for p in opened.cells], opened.directory / "cells", opened.directory / "ledger.jsonl")
    stands = standing(opened.cells)
    to_do = stands.missing + (stands.failed if failed else [])
    wanted = ready(to_do, opened.cells)
    _tell(stands, console)
    if waiting := len(to_do) - len(wanted):
        console.print(f"{waiting} cells wait for their trunk: they are sent by 'resume' when it is there")
    if wanted:
        spec = _array(opened, wanted, cluster, at_most)
        open_backend(cluster).render(spec)  # whatever cannot be rendered is refused before a directory is made
        job = send(spec, wanted, cluster, name, opened.directory)
        console.print(f"submitted {len(wanted)} cells as {cluster.backend} job {job}", soft_wrap=True)
    if wanted or stands.busy:
        again = f"{config}{runs_flag(opened.directory.parent)}"
        console.print(
            f"  escala sweep status {again}\n  escala sweep resume {again}   when they have ended", soft_wrap=True
        )
    paths = None if wanted or stands.busy else report(opened, console)
    return Result(wanted, paths, "" if failed else failure_text(stands.failed, opened, config))


def _array(opened: Opened, cells: list[CellProgress], cluster: ClusterConfig, at_most: int | None) -> JobSpec:
    return array_of(opened.directory, [p.run_dir.root for p in cells], cluster, at_most)


def _tell(stands: Standing, console: Console) -> None:
    words = {"ended": stands.ended, "queued or running": stands.busy, "failed": stands.failed, "to do": stands.missing}
    console.print(", ".join(f"{len(cells)} {word}" for word, cells in words.items() if cells), highlight=False)
    for progress in stands.failed:
        console.print(f"  {progress.cell.id} failed: {progress.failure}", highlight=False)


def sweep_status(config: Path, assignments: tuple[str, ...], runs: Path) -> dict[str, Any]:
    """Return the state of every cell, from the run directories and the scheduler, and take in what is done."""
    sweep = load_sweep(config, assignments)
    directory, known = runs / sweep.name, cells_of(sweep)
    run_dirs = {cell.id: RunDir(directory / "cells" / cell.id) for cell in known}
    jobs = scheduled([d for d in run_dirs.values() if d.read_status() not in (Status.DONE, Status.DIVERGED)])
    cells = [_cell_state(cell, run_dirs[cell.id], jobs) for cell in known]
    _take_in(known, directory)
    return {
        "sweep": sweep.name,
        "directory": str(directory),
        "data_prepared": all(is_prepared(cell.config.data) for cell in known),
        "done": sum(1 for cell in cells if cell["state"] == Status.DONE),
        "ledger": str(directory / "ledger.jsonl"),
        "ledger_rows": sum(1 for _ in ledger.read(directory / "ledger.jsonl")),
        "cells": cells,
    }


def _cell_state(cell: Cell, run_dir: RunDir, jobs: dict[RunDir, Any]) -> dict[str, Any]:
    row = last_step(run_dir.metrics) or {}
    steps = json.loads(run_dir.plan.read_text())["steps"] if run_dir.plan.exists() else None
    status = run_dir.read_status()
    state, reason, job = status.value if status else "waiting", "", None
    if status is Status.FAILED:
        reason = failure_of(run_dir)
    if run_dir in jobs:
        submitted, known = jobs[run_dir]
        state, reason, job = known.state.value, known.reason, submitted.job
    return {
        "id": cell.id,
        "state": state,
        "step": row.get("step", 0),
        "steps": steps,
        "loss": row.get("loss"),
        "run_dir": str(run_dir.root),
        "job": job,
        "reason": reason,
    }


def _take_in(cells: list[Cell], directory: Path) -> None:
    """Append what is done to the ledger, unless another process is at it."""
    if not directory.is_dir():
        return
    try:
        with FileLock(directory / ".lock", timeout=0):
            collect(cells, directory / "cells", directory / "ledger.jsonl")
    except Timeout:
        return
