"""How a job stands that a process of ours drives (local, ssh): a file in its run directory, for other processes.

The ranks cannot say it: one that is killed writes nothing, and of a lost host or a job that never began only the driver
knows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.cluster.job import JobState, JobStatus, RankFailure
from trainer.contract.attempts import newest_attempt
from trainer.contract.errors import UserError
from trainer.contract.run_dir import utc_now, write_atomically

FILE = "driver.json"


def tell(run_dir: Path, driver: str, status: JobStatus) -> None:
    """Write how the job stands. `driver` is the id of the process that says so. A full disk is no reason to end it."""
    row = {"driver": driver, "attempt": newest_attempt(run_dir), "time": utc_now(), **asdict(status)}
    try:
        write_atomically(run_dir / FILE, json.dumps(row, indent=2) + "\n")
    except OSError as error:
        print(f"warning: how the job stands is not recorded: {run_dir / FILE}: {error.strerror}", file=sys.stderr)


@contextmanager
def telling_refusals(run_dir: Path, driver: str) -> Iterator[None]:
    """Have a UserError in the block told to other processes too, where the run has a directory already."""
    try:
        yield
    except UserError as error:
        if run_dir.is_dir():
            tell(run_dir, driver, JobStatus(JobState.FAILED, reason=str(error)))
        raise


@dataclass(frozen=True)
class Told:
    """What a driver said last."""

    driver: str  # the id of its process
    attempt: int  # of the run, at that time
    status: JobStatus


def told(run_dir: Path) -> Told | None:
    """Return what the last driver of a run said; None where nobody did or the file is damaged."""
    try:
        row = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
        failure = None if row["failure"] is None else RankFailure(**row["failure"])
        status = JobStatus(JobState(row["state"]), row["exit_code"], failure, row["reason"])
        return Told(str(row["driver"]), int(row["attempt"]), status)
    except (OSError, ValueError, KeyError, TypeError):
        return None
