"""The story of a sweep on a cluster: submit what is missing, ask how it stands, go on, and report when all is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from launch.cluster.config import ClusterConfig, load_cluster, open_backend
from launch.cluster.job import JobSpec
from launch.cluster.warnings import warn
from launch.run.data_preparation import is_prepared
from launch.run.run_state import loss_of_progress, state_of
from launch.run.runs_root import runs_flag
from launch.scaling.table.counting import DEFAULT_N
from launch.show.plan_table import sweep_table
from launch.sweep.cells.cell import Cell
from launch.sweep.cells.config import load_sweep
from launch.sweep.cells.former import former_names
from launch.sweep.execute.opened import RECORD, Opened, cells_in, has_gpus, locked, open_sweep
from launch.sweep.execute.progress import last_step
from launch.sweep.execute.run import CellProgress, ready
from launch.sweep.execute.story import Result, ending, report, run_sweep
from launch.sweep.execute.submit import (
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
from launch.sweep.ledger import ledger
from launch.sweep.ledger.collect import collect
from trainer.contract.errors import UserError
from trainer.contract.plain_json import DamagedFileError, read_lines, read_object
from trainer.contract.run_dir import RunDir, Status


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
    n_convention: str = DEFAULT_N,
) -> Result:
    """Send every cell that is missing to a cluster as one array. Raises UserError, before anything is sent.

    Machines that are driven from here (SSH, this one) run the cells one after another until all have ended.
    """
    cluster, sweep = load_cluster(name), load_sweep(config, assignments)
    check_shape(sweep, cluster, name)
    if cluster.backend not in SCHEDULED and at_most is not None:
        raise UserError(f"--at-most has no effect on {cluster.backend}: its nodes and ranks_per_node are the limit")
    warn(cluster.job(sweep.name, (), runs), cluster.backend)
    if not dry_run:
        rehearse(sweep, runs.resolve() / sweep.name, cluster, at_most)
    if cluster.backend not in SCHEDULED:
        where = runs.resolve()
        return run_sweep(
            config,
            assignments,
            where,
            console,
            dry_run=dry_run,
            failed=failed,
            cluster=cluster,
            n_convention=n_convention,
        )
    opened = open_sweep(config, assignments, runs.resolve(), gpu=has_gpus(cluster))
    if dry_run:
        console.print(sweep_table(opened.plans, {}, console.width))
        print(open_backend(cluster).render(_array(opened, ready(opened.cells, opened.cells), cluster, at_most)), end="")
        return Result()
    with locked(opened):
        return _go_on(opened, cluster, name, config, console, failed=failed, at_most=at_most, n_convention=n_convention)


def resume_sweep(
    config: Path,
    assignments: tuple[str, ...],
    runs: Path,
    console: Console,
    *,
    failed: bool,
    at_most: int | None,
    n_convention: str = DEFAULT_N,
) -> Result:
    """Go on with a sweep where it was last: take in what has ended, send what is missing, report when all is done."""
    sweep = load_sweep(config, assignments)
    directory = runs / sweep.name
    if not (directory / RECORD).exists():
        raise UserError(f"sweep {sweep.name!r} has not been started under {runs}: use 'escala sweep run' or 'submit'")
    name = recorded_cluster(directory)
    if name is not None:
        return submit_sweep(
            config, assignments, runs, name, console, failed=failed, at_most=at_most, n_convention=n_convention
        )
    if at_most is not None:
        raise UserError(
            "--at-most has an effect on arrays of Slurm and Kubernetes only; this sweep ran on this machine"
        )
    return run_sweep(config, assignments, runs, console, failed=failed, n_convention=n_convention)


def _go_on(
    opened: Opened, cluster: ClusterConfig, name: str, config: Path, console: Console, *, failed: bool,
    at_most: int | None, n_convention: str,
) -> Result:  # fmt: skip
    stands = standing(opened.cells)
    collect(opened.cells, opened.directory / "ledger.jsonl")
    to_do = stands.missing + (stands.failed + stands.diverged if failed else [])
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
    paths = None if wanted or stands.busy else report(opened, console, n_convention)
    if failed:
        return Result(wanted, paths)
    return Result(wanted, paths, *ending(stands.failed, stands.diverged, opened, config))


def _array(opened: Opened, cells: list[CellProgress], cluster: ClusterConfig, at_most: int | None) -> JobSpec:
    return array_of(opened.directory, [p.run_dir.root for p in cells], cluster, at_most)


def _tell(stands: Standing, console: Console) -> None:
    words = {"done": stands.done, "queued or running": stands.busy, "failed": stands.failed,
             "diverged": stands.diverged, "to do": stands.missing}  # fmt: skip
    console.print(", ".join(f"{len(cells)} {word}" for word, cells in words.items() if cells), highlight=False)
    for progress in (*stands.failed, *stands.diverged):
        word = "failed" if progress in stands.failed else "diverged"
        console.print(f"  {progress.cell.id} {word}: {progress.failure}", highlight=False, markup=False)


def sweep_status(config: Path, assignments: tuple[str, ...], runs: Path) -> dict[str, Any]:
    """Return the state of every cell, from the run directories, the scheduler and the ledger. Changes nothing."""
    sweep = load_sweep(config, assignments)
    directory = runs / sweep.name
    known = cells_in(sweep, directory)
    run_dirs = {cell.id: RunDir(directory / "cells" / cell.id) for cell in known}
    jobs = scheduled([d for d in run_dirs.values() if d.read_status() not in (Status.DONE, Status.DIVERGED)])
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


def _cell_state(cell: Cell, run_dir: RunDir, jobs: dict[RunDir, Any], remark: str) -> dict[str, object]:
    row = last_step(run_dir.metrics) or {}
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
