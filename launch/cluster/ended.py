"""How a run ended by its own record: for good, so that no scheduler needs to be asked, or as far as it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.cluster.job import JobState, JobStatus
from launch.cluster.logs import first_failure
from launch.run.run_state import divergence_of, failure_of
from trainer.contract.attempts import attempts
from trainer.contract.run_dir import RunDir, Status

STATE_OF = {  # what a run says of itself, as the state of its job
    Status.PENDING: JobState.PENDING,
    Status.RUNNING: JobState.RUNNING,
    Status.DONE: JobState.DONE,
    Status.DIVERGED: JobState.FAILED,
    Status.FAILED: JobState.FAILED,
    Status.PREEMPTED: JobState.PREEMPTED,
}


def by_record(run_dir: Path) -> JobStatus | None:
    """Return the status of a run that is done or has diverged, which no later attempt changes; else None."""
    found = RunDir(run_dir)
    word = found.read_status()
    if word is Status.DONE:
        return JobStatus(JobState.DONE, 0)
    if word is Status.DIVERGED:
        return JobStatus(JobState.FAILED, reason=f"diverged: {divergence_of(found)}")
    return None


def failed_by_record(run_dir: Path, known: Sequence[int] | None = None) -> JobStatus | None:
    """Return how a run failed that says so itself, with the rank that began it or its own word; else None.

    `known` are the attempts that may be blamed, all by default. A scheduler forgets its jobs, these records stay.
    """
    if RunDir(run_dir).read_status() is not Status.FAILED:
        return None
    known = attempts(run_dir) if known is None else known
    failure = first_failure(RunDir(run_dir).logs(known[-1])) if known else None
    if failure is not None:
        return JobStatus(JobState.FAILED, failure.exit_code, failure, str(failure))
    return JobStatus(JobState.FAILED, reason=failure_of(RunDir(run_dir)))
