"""Jobs whose backend is a process of this machine (local, ssh): found, asked and ended through that process."""

from __future__ import annotations

import os
import signal
import socket
from functools import cache
from typing import TYPE_CHECKING

from launch.cluster.driven import told
from launch.cluster.ended import STATE_OF, by_record, failed_by_record
from launch.cluster.job import JobState, JobStatus
from launch.cluster.registry import Submitted
from launch.run.run_state import CLOCK_SLACK
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status

if TYPE_CHECKING:
    import psutil


def job_id() -> str:
    """Return this process as a job id, always the same: HOST:PID:START. A later process of its number is not meant."""
    return _own_id(os.getpid())


@cache
def _own_id(pid: int) -> str:
    return job_id_of(pid)  # kept, for the start is told differently after the clock was set


def job_id_of(pid: int) -> str:
    """Return a process of this machine as a job id. Raises psutil.NoSuchProcess."""
    import psutil  # late: a command that starts nothing does not pay for it

    return f"{socket.gethostname()}:{pid}:{int(psutil.Process(pid).create_time())}"


def host_of(job: str) -> str:
    """Return the machine on which a job's process was started."""
    return job.rsplit(":", 2)[0]


def same_process(one: str, other: str) -> bool:
    """Tell whether two job ids, each as another process may have told it, mean one process."""
    (*place, began), (*elsewhere, started) = one.rsplit(":", 2), other.rsplit(":", 2)
    try:
        return one == other or (place == elsewhere and abs(int(began) - int(started)) <= CLOCK_SLACK)
    except ValueError:  # no job id of a process
        return False


def owner(job: str) -> psutil.Process | None:
    """Return the process behind an id, or None when it has ended. Raises UserError on another machine."""
    import psutil

    host, pid, started = job.rsplit(":", 2)
    if host != socket.gethostname():
        raise UserError(f"job {job} was started on {host}: ask there")
    try:
        process = psutil.Process(int(pid))
        same = abs(process.create_time() - int(started)) <= CLOCK_SLACK
        # In a container, where nobody may wait for its orphans, an ended driver stays in the list.
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def status(row: Submitted) -> JobStatus:
    """Return what the process that drives the run says, and where it said nothing, what the run directory says."""
    last = told(row.run_dir)
    said = last.status if last is not None and same_process(last.driver, row.job) else None
    here = host_of(row.job) == socket.gethostname()
    gone = here and owner(row.job) is None
    word = RunDir(row.run_dir).read_status()
    if said is not None and said.state is JobState.CANCELLED and word is Status.PREEMPTED:
        return JobStatus(JobState.PREEMPTED, said.exit_code, reason="cancelled; it saved first, and can go on")
    if said is not None and (said.state.final or not gone):
        return said
    state = JobState.PENDING if word is None else STATE_OF[word]
    if not state.final and gone:
        was = "was running" if word is Status.RUNNING else "had not begun"
        before = f" (it said last: {said.reason})" if said is not None and said.reason else ""
        reason = f"dead: it {was} and its process is gone; submit it again to go on{before}"
        return JobStatus(JobState.FAILED, reason=reason)
    return failed_by_record(row.run_dir) or by_record(row.run_dir) or JobStatus(state)


def cancel(row: Submitted) -> None:
    """Ask the process behind a job to stop; its ranks save first."""
    import psutil

    process = owner(row.job)
    if process is None:
        raise UserError(f"{row.name} does not run: the process that started it has ended")
    try:
        process.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        return  # it has just ended by itself
    except psutil.AccessDenied:
        raise UserError(f"its process {process.pid} belongs to {process.username()}, who alone can end it") from None
