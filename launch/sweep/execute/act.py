"""Carry out what was decided for a sweep: words into run directories, rows into the ledger, cells to their backend."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.cluster.config import ClusterConfig, lasting_name
from launch.cluster.job import JobSpec, Task
from launch.cluster.registry import JOB_FILE
from launch.run.run_state import begin_again, begun_again, write_down
from launch.run.submission import record_submission
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.cells.trunks import from_branch_point
from launch.sweep.execute.decide import Decision
from launch.sweep.execute.expect import expect_next
from launch.sweep.execute.underway import Place, Underway
from launch.sweep.ledger.collect import collect, result_problem
from trainer.config.load import dump
from trainer.contract.attempts import attempts
from trainer.contract.plain_json import read_object
from trainer.contract.run_dir import Status, write_atomically

CLUSTER = "cluster.json"  # in the sweep's directory: the cluster of its last start, none where that was this machine


def write(sweep: Underway, decision: Decision) -> None:
    """Write how cells ended, into their run directories and into the ledger."""
    by_id = {one.id: one for one in sweep.cells}
    for seen in decision.write:
        run_dir = by_id[seen.cell].run_dir
        if seen.unsaid is Status.PENDING:
            why = f"result.json: {result_problem(run_dir)}"
            print(f"warning: {seen.cell} is evaluated again: {why}", file=sys.stderr)
            run_dir.write_status(Status.PENDING)
        elif seen.job is not None:
            write_down(run_dir, seen.job)
    if decision.collect:
        collect([by_id[cell] for cell in decision.collect], sweep.ledger)
        expect_next(sweep.cells, sweep.eval_set)
    sweep.collected.update(decision.collect)


def start(sweep: Underway, cells: Sequence[str]) -> None:
    """Lay out these cells' directories and hand them over: as one array to a scheduler, else one by one.

    Raises UserError; cells that were not taken then keep how they ended before.
    """
    place = sweep.place
    specs = _specs(sweep, [one for one in sweep.cells if one.id in set(cells)])
    for spec, _ in specs:
        place.backend.render(spec)  # what cannot be rendered is refused before a directory is made
    for spec, members in specs:
        with begun_again([one.run_dir for one in members]):
            for one in members:
                lay_out(one)
                if place.driver is not None:  # its jobs have no record, and that of an earlier one is of it no more
                    (one.run_dir.root / JOB_FILE).unlink(missing_ok=True)
            job = place.backend.submit(spec)
        if place.scheduler is not None:
            record_submission(spec, job, lasting_name(place.name), place.cluster, place.scheduler.identity(job))
        if not sweep.started:
            _record(sweep.directory, place)
        for one in members:
            sweep.ids[one.id] = job
            sweep.starts[one.id] += 1
            sweep.collected.discard(one.id)
            (sweep.jobs or {}).pop(one.id, None)


def _specs(sweep: Underway, cells: list[PlannedCell]) -> list[tuple[JobSpec, list[PlannedCell]]]:
    place = sweep.place
    if place.scheduler is not None:
        return [(array_of(sweep.directory, [one.id for one in cells], place.cluster, place.at_most), cells)]
    return [(place.job(one.id, _command(one.run_dir.root), one.run_dir.root), [one]) for one in cells]


def array_of(directory: Path, cells: Sequence[str], cluster: ClusterConfig, at_most: int | None) -> JobSpec:
    """Return one array of cells of the sweep in `directory`.

    A cell that ran before gets another job name, for the old one may be kept.
    """
    tasks = []
    for cell in cells:
        root = directory / "cells" / cell
        again = len(attempts(root))
        tasks.append(Task(f"{cell}-{again + 1}" if again else cell, _command(root), root))
    return cluster.array(directory.name, tuple(tasks), directory, at_most)


def _command(root: Path) -> tuple[str, ...]:
    return ("-m", "trainer.train", "--run-dir", str(root))


def lay_out(one: PlannedCell) -> None:
    """Make a cell's directory and write its configuration: from the branch point where the trunk kept it."""
    one.run_dir.root.mkdir(parents=True, exist_ok=True)
    begin_again(one.run_dir)
    config, point = one.cell.config, one.branch_point
    write_atomically(one.run_dir.config, dump(config if point is None else from_branch_point(config, point)))


def _record(directory: Path, place: Place) -> None:
    """Write where the sweep runs now, for `resume`."""
    if place.name:
        write_atomically(directory / CLUSTER, json.dumps({"cluster": lasting_name(place.name)}) + "\n")
    else:
        (directory / CLUSTER).unlink(missing_ok=True)


def recorded_cluster(directory: Path) -> str | None:
    """Return the cluster that a sweep was sent to last, or None for one that runs on this machine."""
    try:
        return str(read_object(directory / CLUSTER, "cluster")["cluster"])
    except FileNotFoundError:
        return None
