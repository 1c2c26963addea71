"""What a sweep does next, from what is known about its cells. Pure, and the same wherever they run.

Two things differ between backends. A queue keeps jobs when this process has gone, so the sweep sends what is ready and
leaves. Where this process drives the jobs itself (this machine, SSH hosts), it stays until all have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from launch.cluster.job import JobState, JobStatus
from trainer.contract.run_dir import Status

MOST_STARTS = 3  # of one cell by one process, when it was preempted or its result was damaged
ENDS = (Status.DONE, Status.DIVERGED, Status.FAILED)


@dataclass(frozen=True)
class Seen:
    """One cell as it was when it was looked at."""

    cell: str
    status: Status | None = None  # what its run directory says
    job: JobStatus | None = None  # of its newest job; None: it has none, or it ended by its own record
    starts: int = 0  # by this process, whose job `job` is then
    unsaid: Status | None = None  # to be written: how it ended, as only its job knows; pending for a damaged result
    collected: bool = False  # the ledger has been told how it ended
    trunk: str | None = None  # the cell that it branches off
    parted: bool = False  # the trunk's checkpoint is there to go on from

    @property
    def open(self) -> bool:
        """Whether a job of it waits or runs, or may: a state that is unknown is no reason to act."""
        return self.job is not None and not self.job.state.final


@dataclass(frozen=True)
class Limits:
    """What a decision depends on besides the cells."""

    queued: bool  # jobs go to a queue that keeps them, else this process drives them
    retry: bool = False  # start cells again that failed or diverged before
    most_starts: int = MOST_STARTS


@dataclass(frozen=True)
class Standing:
    """The cells of a sweep by how they stand, each once, in the order of the sweep."""

    done: tuple[str, ...]
    busy: tuple[str, ...]  # queued or running
    failed: tuple[str, ...]
    diverged: tuple[str, ...]
    ready: tuple[str, ...]  # to be started now
    waiting: tuple[str, ...]  # to be started when their trunk is there

    @property
    def due(self) -> tuple[str, ...]:
        """Return the cells that are to run yet."""
        return self.ready + self.waiting


class Then(StrEnum):
    """What follows once the rest of a decision is carried out."""

    WAIT = "wait"  # for something to happen, and look again
    LEAVE = "leave"  # the queue goes on without this process
    FINISH = "finish"  # nothing runs, and nothing can be started
    REFUSE = "refuse"  # cells run elsewhere, and this process would start them too


@dataclass(frozen=True)
class Decision:
    """What to do, in this order. `cells` is how they stand after `write`."""

    cells: tuple[Seen, ...]
    then: Then
    write: tuple[Seen, ...] = ()  # what is unsaid of these goes into their run directories
    collect: tuple[str, ...] = ()  # how these ended goes into the ledger
    start: tuple[str, ...] = ()  # as one array where there is a queue


def decide(seen: Sequence[Seen], limits: Limits) -> Decision:
    """Return what to do now. Total: any state of any cells has an answer."""
    cells = tuple(replace(one, status=one.unsaid or one.status, unsaid=None) for one in seen)
    stands = stand(cells, limits)
    if not limits.queued and any(one.open and not one.starts for one in cells):
        return Decision(cells, Then.REFUSE)
    going = bool(stands.ready or stands.busy)
    return Decision(
        cells,
        Then.FINISH if not going else Then.LEAVE if limits.queued else Then.WAIT,
        write=tuple(one for one in seen if one.unsaid is not None),
        collect=tuple(one.cell for one in cells if one.status in ENDS and not one.open and not one.collected),
        start=stands.ready,
    )


def stand(cells: Sequence[Seen], limits: Limits) -> Standing:
    """Sort the cells by how they stand."""
    found: dict[str, list[str]] = {name: [] for name in Standing.__dataclass_fields__}
    kinds = {one.cell: _kind(one, limits) for one in cells}
    over = {one.cell for one in cells if one.status in (Status.DONE, Status.DIVERGED) and kinds[one.cell] != "due"}
    for one in cells:
        kind = kinds[one.cell]
        if kind == "due":
            kind = "ready" if one.trunk is None or one.parted or one.trunk in over else "waiting"
        found[kind].append(one.cell)
    return Standing(**{name: tuple(ids) for name, ids in found.items()})


def _kind(one: Seen, limits: Limits) -> str:
    if one.open:
        return "busy"
    if one.status is Status.DONE:
        return "done"
    if _due(one, limits):
        return "due"
    return "diverged" if one.status is Status.DIVERGED else "failed"


def _due(one: Seen, limits: Limits) -> bool:
    """Whether a cell that is not done and has no job is to be started.

    One that this process started is so only where it stopped for no fault of its own.
    """
    bad = one.status in (Status.FAILED, Status.DIVERGED)
    if not one.starts:
        return limits.retry or not bad
    stopped = one.status is Status.PENDING or (one.job is not None and one.job.state is JobState.PREEMPTED)
    return stopped and not bad and one.starts < limits.most_starts
