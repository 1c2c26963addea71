"""A sweep that this process works on: its cells, where they run, and what has been done so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.cluster.backend import Driver, Scheduler
from launch.cluster.config import ClusterConfig
from launch.cluster.job import JobSpec, JobStatus
from launch.scaling.live.ledger import HELD_OUT
from launch.sweep.cells.planned import PlannedCell


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
        """Return what the cells are submitted to."""
        backend = self.scheduler or self.driver
        assert backend is not None, "a place has one of the two"
        return backend


@dataclass
class Underway:
    """A sweep, and the memory of the process that works on it."""

    directory: Path
    cells: Sequence[PlannedCell]
    place: Place
    eval_set: str = HELD_OUT  # that laws are fitted to
    ids: dict[str, str] = field(default_factory=dict)  # cell -> the job that this process started for it last
    starts: Counter[str] = field(default_factory=Counter)
    jobs: dict[str, JobStatus] | None = None  # cell -> its newest job as it was last told; None: nobody was asked yet
    collected: set[str] = field(default_factory=set)  # the ledger was told how these ended
    recorded: frozenset[str] = frozenset()  # it said before that these are done

    @property
    def ledger(self) -> Path:
        """Return the sweep's ledger."""
        return self.directory / "ledger.jsonl"

    @property
    def started(self) -> list[PlannedCell]:
        """Return the cells that have been started."""
        return [one for one in self.cells if self.starts[one.id]]
