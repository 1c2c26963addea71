"""What to run and what became of it: pure data that every backend understands.

A job is one training run (or an array of runs of one shape) on `nodes` x `ranks_per_node` processes. Each rank
runs the same Python program. Nothing here starts anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainer.contract.errors import UserError

NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Requeue:
    """When a job that ended early goes back into the queue. Preemption always sends it back."""

    on_timeout: int = 10  # how often a job may reach its time limit and go on
    on_failure: int = 0  # how often a job is started again after a rank failed
    # A lost node counts as preemption where the scheduler can tell, else as failure.


@dataclass(frozen=True)
class Mount:
    """A directory of the host that the container sees at `target`."""

    source: Path
    target: Path
    read_only: bool = False


@dataclass(frozen=True)
class Task:
    """One member of an array: what differs between its runs."""

    name: str
    command: tuple[str, ...]
    run_dir: Path


@dataclass(frozen=True)
class JobSpec:
    """One job. `command` is what follows `python` for one rank: ("-m", "trainer.train", "--run-dir", DIR)."""

    name: str
    command: tuple[str, ...]
    run_dir: Path
    nodes: int = 1
    ranks_per_node: int = 1
    environment: Mapping[str, str] = field(default_factory=lambda: NO_SETTINGS)
    directory: Path | None = None  # where ranks start; default: where the job was submitted
    time_limit: int | None = None  # minutes
    array: tuple[Task, ...] = ()  # when given, each task replaces name, command and run_dir
    array_cap: int | None = None  # at most so many tasks of the array at a time
    after: tuple[str, ...] = ()  # ids of jobs that must be done first
    requeue: Requeue = Requeue()
    gpu: str | None = None  # what each rank trains on; None: the processor
    container: str | None = None  # image
    mounts: tuple[Mount, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=lambda: NO_SETTINGS)  # options of one backend, by their names

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.ranks_per_node < 1:
            raise UserError(
                f"job {self.name!r}: nodes ({self.nodes}) and ranks per node ({self.ranks_per_node}) must be at least 1"
            )
        if self.array_cap is not None and self.array_cap < 1:
            raise UserError(
                f"job {self.name!r}: at most {self.array_cap} tasks at a time would never run; give 1 or more"
            )

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.nodes * self.ranks_per_node

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The runs of this job: those of its array, or the one it is."""
        return self.array or (Task(self.name, self.command, self.run_dir),)


class JobState(StrEnum):
    """Where a job stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"  # nobody who was asked can tell: no reason to act
    PREEMPTED = "preempted"  # saved and stopped; submitting it again goes on
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Return whether nothing will change any more."""
        return self not in (JobState.PENDING, JobState.RUNNING, JobState.UNKNOWN)


@dataclass(frozen=True)
class JobIdentity:
    """What tells a job from another one that gets its id later, or on another cluster. "" where it is not known."""

    site: str = ""  # the scheduler's own name of the cluster
    user: str = ""  # who submitted it
    name: str = ""  # as the scheduler shows it
    output: str = ""  # directory of the batch script's output


NOBODY = JobIdentity()


@dataclass(frozen=True)
class RankFailure:
    """The rank that failed first, and why. The others of the job were ended because of it."""

    rank: int  # -1: the node itself failed, before its ranks
    host: str
    exit_code: int | None
    signal: str | None
    message: str  # last line of its traceback, or of its log

    def __str__(self) -> str:
        if self.rank < 0:
            return f"{self.host}: {self.message}"
        how = f"signal {self.signal}" if self.signal else f"exit code {self.exit_code}"
        return f"rank {self.rank} on {self.host} ended with {how}" + (f": {self.message}" if self.message else "")


@dataclass(frozen=True)
class JobStatus:
    """State of one job; exit code, failure and reason where they are known."""

    state: JobState
    exit_code: int | None = None
    failure: RankFailure | None = None
    reason: str = ""  # in words: why it waits, or how it ended


# What one member's state says of its array: before an earlier state, a later one does not count.
WORST_FIRST = (
    JobState.RUNNING,
    JobState.PENDING,
    JobState.UNKNOWN,
    JobState.FAILED,
    JobState.PREEMPTED,
    JobState.CANCELLED,
    JobState.DONE,
)


def array_status(members: list[JobStatus]) -> JobStatus:
    """Return the status of a whole array: running while one runs, failed if one failed, done only when all are."""
    states = [member.state for member in members]
    done = sum(s is JobState.DONE for s in states)
    reason = f"{done} of {len(states)} done"
    first = next(state for state in WORST_FIRST if state in states)
    return next(JobStatus(first, m.exit_code, m.failure, reason) for m in members if m.state is first)
