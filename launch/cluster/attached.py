"""Jobs whose backend is a process of this machine (local, ssh): found, asked and ended through that process."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

from launch.cluster.driven import told
from launch.cluster.ended import by_record, failed_by_record
from launch.cluster.job import JobState, JobStatus
from launch.cluster.registry import Submitted
from launch.run.run_state import CLOCK_SLACK
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status

if TYPE_CHECKING:
    import psutil

_STATES = {
    Status.PENDING: JobState.PENDING,
    Status.DONE: JobState.DONE,
    Status.DIVERGED: JobState.FAILED,
    Status.FAILED: JobState.FAILED,
    Status.PREEMPTED: JobState.PREEMPTED,
}


def job_id() -> str:
    """Return this process as a job id: HOST:PID:START, so that a later process with the same number is not meant."""
    import psutil  # late: a command that starts nothing does not pay for it

    return f"{socket.gethostname()}:{os.getpid()}:{int(psutil.Process().create_time())}"


def owner(job: str) -> psutil.Process | None:
    """Return the process behind an id, or None when it has ended. Raises UserError on another machine."""
    import psutil

    host, pid, started = job.rsplit(":", 2)
    if host != socket.gethostname():
        raise UserError(f"job {job} was started on {host}: ask there")
    try:
        process = psutil.Process(int(pid))
        return process if abs(process.create_time() - int(started)) <= CLOCK_SLACK else None
    except psutil.NoSuchProcess:
        return None


def status(row: Submitted) -> JobStatus:
    """Return what the process that drives the run says, and where it said nothing, what the run directory says."""
    last = told(row.run_dir)
    said = last.status if last is not None and last.driver == row.job else None
    here = row.job.rsplit(":", 2)[0] == socket.gethostname()
    gone = here and owner(row.job) is None
    word = RunDir(row.run_dir).read_status()
    if said is not None and said.state is JobState.CANCELLED and word is Status.PREEMPTED:
        return JobStatus(JobState.PREEMPTED, said.exit_code, reason="cancelled; it saved first, and can go on")
    if said is not None and (said.state.final or not gone):
        return said
    state = JobState.PENDING if word is None else _STATES.get(word, JobState.RUNNING)
    if not state.final and gone:
        was = "was running" if word is Status.RUNNING else "had not begun"
        before = f" (it said last: {said.reason})" if said is not None and said.reason else ""
        reason = f"dead: it {was} and its process is gone; submit it again to go on{before}"
        return JobStatus(JobState.FAILED, reason=reason)
    return failed_by_record(row.run_dir) or by_record(row.run_dir) or JobStatus(state)


def cancel(row: Submitted) -> None:
    """Ask the process behind a job to stop; its ranks save first."""
    process = owner(row.job)
    if process is None:
        raise UserError(f"{row.name} does not run: the process that started it has ended")
    process.send_signal(signal.SIGTERM)
