"""How a run ended for good, by its own record: no scheduler needs to be asked about it."""

from __future__ import annotations

from pathlib import Path

from launch.cluster.job import JobState, JobStatus
from launch.run.run_state import divergence_of
from trainer.contract.run_dir import RunDir, Status


def by_record(run_dir: Path) -> JobStatus | None:
    """Return the status of a run that is done or has diverged, which no later attempt changes; else None."""
    found = RunDir(run_dir)
    word = found.read_status()
    if word is Status.DONE:
        return JobStatus(JobState.DONE, 0)
    if word is Status.DIVERGED:
        return JobStatus(JobState.FAILED, reason=f"diverged: {divergence_of(found)}")
    return None
