"""What a backend is: how it is described, and what it does.

A backend is one folder (or one file) with a descriptor, which `launch/cluster/backends.py` finds by name. Either this
process drives the ranks (`Driven`), or a scheduler keeps the jobs (`Queued`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from launch.cluster.job import JobIdentity, JobSpec, JobStatus
from trainer.config.base import Section

if TYPE_CHECKING:
    from launch.cluster.config import ClusterConfig


class Backend(Protocol):
    """Where jobs run. Every method may raise `UserError`."""

    def rehearse(self, spec: JobSpec) -> None:
        """Raise UserError where `submit` would, as far as it can be known while nothing is queued or started."""
        ...

    def submit(self, spec: JobSpec) -> str:
        """Check the spec, start or queue it, and return the job's id."""
        ...

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        """Return the status of each job. Costs one question to the scheduler, however many jobs."""
        ...

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield log lines of one rank, or of all with the rank in front; with `follow` until the job ends."""
        ...

    def cancel(self, *jobs: str) -> None:
        """End jobs and all their processes. Raises UserError that names those that were not ended."""
        ...

    def render(self, spec: JobSpec) -> str:
        """Return, byte for byte, what `submit` would hand over."""
        ...


class Driver(Backend, Protocol):
    """A backend whose jobs this process drives. Leaving its `with` block ends what still runs."""

    def wait(self, seconds: float) -> None:
        """Sleep until something happens to a job, at most for `seconds`, and act on it."""
        ...

    def close(self) -> None:
        """End everything that runs and leave no process behind."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Scheduler(Backend, Protocol):
    """A backend that keeps jobs when this process has gone. A later process takes them up with `adopt`."""

    def adopt(self, job: str, run_dirs: tuple[Path, ...], identity: JobIdentity) -> None:
        """Take up a job that an earlier process submitted, perhaps somebody else's. Asks nobody."""
        ...

    def identity(self, job: str) -> JobIdentity:
        """Return what tells a job that was submitted here from another one that gets its id later."""
        ...

    def batch_lines(self, job: str) -> Iterator[str] | None:
        """Return the lines that the job's own script printed; None where there is no script, or no line yet."""
        ...


class Home(Enum):
    """What a `~` in `python` and `directory` of a cluster file stands for."""

    OF_THIS_MACHINE = "the nodes have the homes of this machine"
    OF_EACH_NODE = "it is opened on the node"
    NOBODYS = "there is no home: whole paths are asked for"


@dataclass(frozen=True)
class Sharing:
    """How the jobs of one process share a machine. A driver that cannot make use of it leaves it alone."""

    threads: int | None = None  # of each rank; by default the cores are divided among the ranks
    log: Path | None = None  # where the processes around the ranks write; by default into the run directory


# From what the nodes said about themselves: their reports, and in words what went wrong with the others.
Answers = tuple[list[dict[str, Any]], list[str]]


def no_warnings(_: JobSpec) -> list[str]:
    """Return nothing: there is nothing that could have been forgotten."""
    return []


def no_array(_: str) -> str:
    """Return "": the ids of an array's tasks do not tell the array."""
    return ""


def one_id_each(_: JobSpec, job: str) -> list[str]:
    """Return the ids of a job's tasks where each has its own and `submit` joined them by commas."""
    return job.split(",")


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """What is known about a backend without opening it."""

    name: str  # what `backend` of a cluster file says
    summary: str  # one line, for `escala keys --of cluster`
    options: type[Section]  # what may stand under `options` of a cluster file
    reach: Callable[[ClusterConfig], str]  # one short question; the answer in words. Raises UserError without one
    home: Home = Home.OF_THIS_MACHINE
    side_by_side: bool = False  # jobs may have fewer ranks than the cluster, and run at the same time
    containers: bool = False  # whether `container` and `mounts` have an effect
    programs: tuple[str, ...] = ()  # that it calls on this machine, for `escala doctor`
    packages: tuple[str, ...] = ()  # Python packages that it needs beside those of Escala
    warnings: Callable[[JobSpec], list[str]] = no_warnings  # what looks forgotten about a job
    # Runs `python WORDS` once on each node of a job, for `escala preflight`. None: nodes cannot be asked.
    ask_nodes: Callable[[ClusterConfig, JobSpec, tuple[str, ...]], Answers] | None = None


def one_a_gpu(_: ClusterConfig) -> int:
    """Return 1: each rank has a GPU of its own."""
    return 1


@dataclass(frozen=True, kw_only=True)
class Driven(Descriptor):
    """A backend whose jobs end with the process that submitted them."""

    open: Callable[[ClusterConfig, Sharing], Driver]
    slots_per_gpu: Callable[[ClusterConfig], int] = one_a_gpu  # ranks of different jobs that share one


@dataclass(frozen=True, kw_only=True)
class Queued(Descriptor):
    """A backend whose scheduler keeps jobs."""

    open: Callable[[ClusterConfig], Scheduler]
    arrays: bool = False  # takes several runs as one job; else they are submitted one after the other
    start: Callable[[ClusterConfig, JobSpec], str] | None = None  # what a person types, where nothing starts by itself
    dependencies: bool = False  # a job can wait for others: `escala submit --after`
    task_ids: Callable[[JobSpec, str], list[str]] = one_id_each  # from an array and its id
    array_of: Callable[[str], str] = no_array  # the id of a task's array, by which `submit` named it
