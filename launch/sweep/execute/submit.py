"""A sweep on a cluster: the cells that are missing go there as one array; what has ended is taken in.

Submitting returns at once. Everything that is known later comes from two places: the run directories, which the cluster
shares with this machine, and the scheduler, asked once for all cells. So a second call finds what the first one left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import registry
from launch.cluster.backends import find_backend, is_driven
from launch.cluster.config import ClusterConfig, lasting_name, open_backend, open_scheduler
from launch.cluster.job import JobSpec, JobStatus, Task
from launch.cluster.overview import statuses_of
from launch.cluster.registry import Submitted
from launch.run.data_preparation import is_prepared
from launch.run.run_state import begun_again, write_down
from launch.run.submission import record_submission
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig
from launch.sweep.execute.opened import has_gpus
from launch.sweep.execute.run import CellProgress
from trainer.contract.attempts import attempts
from trainer.contract.errors import UserError
from trainer.contract.plain_json import read_object
from trainer.contract.run_dir import RunDir, Status, write_atomically

RECORD = "cluster.json"  # in the sweep's directory: where its cells were sent


@dataclass(frozen=True)
class Standing:
    """How the cells of a sweep stand on its cluster."""

    done: list[CellProgress]  # never sent again
    busy: list[CellProgress]  # queued or running
    failed: list[CellProgress]  # sent again when asked for, like the diverged ones
    diverged: list[CellProgress]
    missing: list[CellProgress]


def check_shape(sweep: SweepConfig, cluster: ClusterConfig, name: str) -> None:
    """Raise UserError where a cell's ranks are not those that the cluster gives to a job."""
    world = cluster.nodes * cluster.ranks_per_node
    if find_backend(cluster.backend).side_by_side and sweep.ranks <= world:
        return
    if world != sweep.ranks:
        raise UserError(
            f"a cell of sweep {sweep.name!r} has {sweep.ranks} ranks, a job on {name} has {cluster.nodes} nodes x "
            f"{cluster.ranks_per_node} = {world}: set `ranks: {world}` in the sweep, or nodes and ranks_per_node there"
        )


def scheduled(run_dirs: list[RunDir]) -> dict[RunDir, tuple[Submitted, JobStatus]]:
    """Return the job and its state for each run that a scheduler was given. Asks it once."""
    rows = {d: row for d in run_dirs if (row := registry.read(d.root)) and not is_driven(row.backend)}
    if not rows:
        return {}
    found = statuses_of(list(rows.values()))
    return {run_dir: (row, found[row.run_dir]) for run_dir, row in rows.items()}


def standing(cells: list[CellProgress]) -> Standing:
    """Sort the cells by how they stand. What the scheduler alone knows about a failed one is written down."""
    known = scheduled([p.run_dir for p in cells if p.ended is None])
    found = Standing([], [], [], [], [])
    for progress in cells:
        if progress.run_dir in known:
            row, progress.status = known[progress.run_dir]
            progress.job = row.job
        _kind(progress, found).append(progress)
    return found


def _kind(progress: CellProgress, found: Standing) -> list[CellProgress]:
    if progress.ended is not None:
        return found.done if progress.ended is Status.DONE else found.diverged
    if progress.status is not None and not progress.status.state.final:
        return found.busy
    if progress.status is not None:
        write_down(progress.run_dir, progress.status)
    if progress.ended is not None:
        return found.diverged
    return found.failed if progress.run_dir.read_status() is Status.FAILED else found.missing


def rehearse(sweep: SweepConfig, directory: Path, cluster: ClusterConfig, at_most: int | None) -> None:
    """Have the cluster judge the first jobs of a sweep whose data are still to be prepared. Raises UserError.

    Where the data are there, submitting says the same at once.
    """
    cells = cells_of(sweep, gpu=has_gpus(cluster))
    if all(is_prepared(data) for data in {c.config.data.directory: c.config.data for c in cells}.values()):
        return
    first = [directory / "cells" / cell.id for cell in cells if cell.branch is None]
    array = array_of(directory, first, cluster, at_most)
    one = cluster.job(sweep.name, array.command, directory)
    open_backend(cluster).rehearse(one if is_driven(cluster.backend) else array)


def array_of(directory: Path, cells: list[Path], cluster: ClusterConfig, at_most: int | None) -> JobSpec:
    """Return one array of a sweep's cells, each given by its run directory, which has its name.

    A cell that ran before gets another job name, for the old one may be kept.
    """
    tasks = []
    for root in cells:
        again = len(attempts(root))
        name = f"{root.name}-{again + 1}" if again else root.name
        tasks.append(Task(name, ("-m", "trainer.train", "--run-dir", str(root)), root))
    return cluster.array(directory.name, tuple(tasks), directory, at_most)


def send(spec: JobSpec, cells: list[CellProgress], cluster: ClusterConfig, name: str, directory: Path) -> str:
    """Lay out the cells' directories, submit the array, and record where every cell went. Return the job's id."""
    scheduler = open_scheduler(cluster)
    with begun_again([progress.run_dir for progress in cells]):
        for progress in cells:
            progress.lay_out()
        job = scheduler.submit(spec)
    kept = lasting_name(name)
    rows = record_submission(spec, job, kept, cluster, scheduler.identity(job))
    for progress, row in zip(cells, rows, strict=True):
        progress.job = row.job
    write_atomically(directory / RECORD, json.dumps({"cluster": kept, "job": job}) + "\n")
    return job


def recorded_cluster(directory: Path) -> str | None:
    """Return the cluster that a sweep was sent to last, or None for one that runs on this machine."""
    try:
        return str(read_object(directory / RECORD, "cluster")["cluster"])
    except FileNotFoundError:
        return None
