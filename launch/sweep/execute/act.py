"""Carry out what was decided for a sweep: words into run directories, rows into the ledger, cells to their backend."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.cluster.backend import Driver, Scheduler
from launch.cluster.config import ClusterConfig, lasting_name
from launch.cluster.job import JobSpec, JobStatus, Task
from launch.run.run_state import begin_again, begun_again, write_down
from launch.run.submission import record_submission
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.cells.trunks import from_branch_point
from launch.sweep.execute.decide import Decision
from launch.sweep.execute.observe import Past, scheduled
from launch.sweep.ledger import ledger
from launch.sweep.ledger.collect import collect, result_problem
from trainer.config.load import dump
from trainer.contract.attempts import attempts
from trainer.contract.plain_json import read_object
from trainer.contract.run_dir import Status, write_atomically

CLUSTER = "cluster.json"  # in the sweep's directory: the cluster of its last start, none where that was this machine


@dataclass(frozen=True)
class Place:
    """Where the cells of a sweep run: on a scheduler that keeps jobs, or a driver whose jobs end with this process."""

    cluster: ClusterConfig
    job: Callable[[str, tuple[str, ...], Path], JobSpec]  # from a cell's name, command and run directory
    scheduler: Scheduler | None = None
    driver: Driver | None = None
    name: str = ""  # of the cluster's file; "" without one
    at_most: int | None = None  # tasks of an array at a time

    @property
    def backend(self) -> Scheduler | Driver:
        backend = self.scheduler or self.driver
        assert backend is not None, "a place has one of the two"
        return backend


@dataclass
class Hands:
    """Acts for one process on a sweep, and remembers what it did."""

    directory: Path
    cells: Sequence[PlannedCell]
    place: Place
    ids: dict[str, str] = field(default_factory=dict)  # cell -> the job that this process started for it last
    starts: Counter[str] = field(default_factory=Counter)
    _jobs: dict[str, JobStatus] | None = None
    _collected: set[str] = field(default_factory=set)
    _recorded: frozenset[str] = frozenset()

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger.jsonl"

    @property
    def started(self) -> list[PlannedCell]:
        return [one for one in self.cells if self.starts[one.id]]

    def past(self) -> Past:
        """Return what is known of jobs and of this process's doing. Asks schedulers once, its own backend each time."""
        if self._jobs is None:
            jobs = scheduled([one.run_dir for one in self.cells])
            self._jobs = {one.id: jobs[one.run_dir][1] for one in self.cells if one.run_dir in jobs}
            known = ledger.latest(self.ledger)
            self._recorded = frozenset(cell for cell, row in known.items() if row.get("status") == "done")
        ended = {cell for cell in self.ids if cell in self._jobs and self._jobs[cell].state.final}
        if going := {job: cell for cell, job in self.ids.items() if cell not in ended}:
            self._jobs |= {going[job]: status for job, status in self.place.backend.status(list(going)).items()}
        return Past(self._jobs, self.starts, self._collected, self._recorded)

    def write(self, decision: Decision) -> None:
        """Write how cells ended, into their run directories and into the ledger."""
        jobs, by_id = self._jobs or {}, {one.id: one for one in self.cells}
        for cell in decision.write:
            write_down(by_id[cell].run_dir, jobs[cell])
        for cell in decision.again:
            run_dir = by_id[cell].run_dir
            print(f"warning: {cell} is evaluated again: result.json: {result_problem(run_dir)}", file=sys.stderr)
            run_dir.write_status(Status.PENDING)
        collect([by_id[cell] for cell in decision.collect], self.ledger)
        self._collected.update(decision.collect)

    def start(self, cells: Sequence[str]) -> None:
        """Lay out these cells' directories and hand them over: as one array to a queue, else one by one.

        Raises UserError; cells that were not taken then keep how they ended before.
        """
        specs = self._specs([one for one in self.cells if one.id in set(cells)])
        for spec, _ in specs:
            self.place.backend.render(spec)  # what cannot be rendered is refused before a directory is made
        for spec, members in specs:
            with begun_again([one.run_dir for one in members]):
                for one in members:
                    lay_out(one)
                job = self.place.backend.submit(spec)
            for one in members:
                self.starts[one.id] += 1
                self.ids[one.id] = job
                self._collected.discard(one.id)
                (self._jobs or {}).pop(one.id, None)
            self._record(spec, job)

    def _specs(self, cells: list[PlannedCell]) -> list[tuple[JobSpec, list[PlannedCell]]]:
        if self.place.scheduler is not None:
            return [(self.array([one.id for one in cells]), cells)]
        return [(self.place.job(one.id, command_of(one.run_dir.root), one.run_dir.root), [one]) for one in cells]

    def array(self, cells: Sequence[str]) -> JobSpec:
        """Return the one job of these cells for a scheduler."""
        roots = [one.run_dir.root for one in self.cells if one.id in set(cells)]
        return array_of(self.directory, roots, self.place.cluster, self.place.at_most)

    def _record(self, spec: JobSpec, job: str) -> None:
        """Write where the cells went. Jobs that this process drives need no record of their own."""
        place, file = self.place, self.directory / CLUSTER
        name = lasting_name(place.name)
        if place.scheduler is not None:
            record_submission(spec, job, name, place.cluster, place.scheduler.identity(job))
        if self.starts.total() > len(spec.tasks):
            return  # said with the first
        if name:
            write_atomically(file, json.dumps({"cluster": name}) + "\n")
        else:
            file.unlink(missing_ok=True)


def lay_out(one: PlannedCell) -> None:
    """Make a cell's directory and write its configuration: from the branch point where the trunk kept it."""
    one.run_dir.root.mkdir(parents=True, exist_ok=True)
    begin_again(one.run_dir)
    config, point = one.cell.config, one.branch_point
    write_atomically(one.run_dir.config, dump(config if point is None else from_branch_point(config, point)))


def command_of(root: Path) -> tuple[str, ...]:
    """Return what each rank of a cell runs."""
    return ("-m", "trainer.train", "--run-dir", str(root))


def array_of(directory: Path, cells: Sequence[Path], cluster: ClusterConfig, at_most: int | None) -> JobSpec:
    """Return one array of a sweep's cells, each given by its run directory, which has its name.

    A cell that ran before gets another job name, for the old one may be kept.
    """
    tasks = []
    for root in cells:
        again = len(attempts(root))
        name = f"{root.name}-{again + 1}" if again else root.name
        tasks.append(Task(name, command_of(root), root))
    return cluster.array(directory.name, tuple(tasks), directory, at_most)


def recorded_cluster(directory: Path) -> str | None:
    """Return the cluster that a sweep was sent to last, or None for one that runs on this machine."""
    try:
        return str(read_object(directory / CLUSTER, "cluster")["cluster"])
    except FileNotFoundError:
        return None
