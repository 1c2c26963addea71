"""How a run stands, for whoever asks; and the last word on a run whose ranks ended without one.

A run's status is written by its first rank. One that was killed leaves `running` behind, so readers ask whether the
process that run.json names still exists, and say `dead` where it does not. They write nothing. Only the launcher that
ran the ranks writes, once all have ended, what their first rank had no time to say.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from launch.cluster.job import JobState, JobStatus
from launch.run.newest_step import newest_event
from trainer.contract.exit_codes import AGREED_EXITS, EXIT_DIVERGED, EXIT_FAILED, EXIT_FENCED
from trainer.contract.plain_json import DamagedFileError, read_object
from trainer.contract.run_dir import RunDir, Status

WAITING, DEAD = "waiting", "dead"
CLOCK_SLACK = 10.0  # seconds by which the start of one process may be told differently after the clock was set


@dataclass(frozen=True)
class RunState:
    """One word for a run, and why where there is more to say."""

    word: str  # a status, `waiting` where nothing was started, `dead` where it says it runs and does not
    reason: str = ""


def state_of(run_dir: RunDir) -> RunState:
    """Return how a run stands, from its directory and the processes of this machine. Changes nothing."""
    status = run_dir.read_status()
    if status is None:
        damaged = (run_dir.root / "status").exists()
        return RunState(WAITING, "its status file is damaged: it counts as not started" if damaged else "")
    if status is Status.FAILED:
        return RunState(status.value, failure_of(run_dir))
    if status is Status.DIVERGED:
        return RunState(status.value, divergence_of(run_dir))
    if status is Status.RUNNING:
        return _running(run_dir)
    return RunState(status.value)


def _running(run_dir: RunDir) -> RunState:
    owner = owner_of(run_dir)
    if owner is None:
        return RunState(Status.RUNNING.value, "run.json does not say where, so whether it still does is not known")
    if not owner.here:
        return RunState(Status.RUNNING.value, f"on {owner.host}")
    if owner.alive:
        return RunState(Status.RUNNING.value)
    return RunState(DEAD, f"was running, its process {owner.pid} is gone; started again, it goes on")


@dataclass(frozen=True)
class Owner:
    """The process that trained a run last: its first rank."""

    host: str
    pid: int
    started: float  # seconds of the epoch; 0 where it is not known

    @property
    def here(self) -> bool:
        """Return whether it is this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as this machine can tell: a later process with its number is another one."""
        import psutil  # late: a command that asks for no process does not pay for it

        try:
            process = psutil.Process(self.pid)
            same = not self.started or abs(process.create_time() - self.started) <= CLOCK_SLACK
            return self.here and same and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ValueError, OverflowError):  # the latter two: no number of a process
            return False
        except psutil.AccessDenied:
            return self.here


def owner_of(run_dir: RunDir) -> Owner | None:
    """Return who signed run.json; None where nobody did or it is damaged."""
    try:
        signed = read_object(run_dir.run, "host", "pid")
        return Owner(str(signed["host"]), int(signed["pid"]), float(signed.get("process_started") or 0))
    except (FileNotFoundError, DamagedFileError, TypeError, ValueError, OverflowError):
        return None


def failure_of(run_dir: RunDir) -> str:
    """Return why a run failed, from its own record."""
    row = newest_event(run_dir, "failed", having="error")
    return "unknown" if row is None else str(row["error"])


def divergence_of(run_dir: RunDir) -> str:
    """Return how a run diverged, from its own record."""
    row = newest_event(run_dir, "diverged", having="error")
    return str((row and row["error"]) or "the loss or the gradient was not a number any more")


def loss_of_progress(run_dir: RunDir) -> str:
    """Say which checkpoints the newest attempt passed over and how many steps it trains again; "" where none.

    From the newest `resumed` or `began_anew` of events.jsonl (see docs/run-directory.md).
    """
    row = newest_event(run_dir, "resumed", "began_anew")
    if row is None:
        return ""
    passed, lost = row.get("passed_over") or [], row.get("lost_steps") or 0
    if not passed and not lost:
        return ""
    how = "began anew" if row["event"] == "began_anew" else f"went on from step {row.get('step')}"
    over = ", ".join(f"{one.get('checkpoint')} ({one.get('problem')})" for one in passed if isinstance(one, dict))
    return f"{how}: {lost} steps are trained again" + (f", passed over {over}" if over else "")


def rank_code(code: int | None) -> int:
    """Return the exit code of a launcher for the rank that ended first: that of the table, 1 for a signal or a bug."""
    return code if code in AGREED_EXITS else EXIT_FAILED


def begin_again(run_dir: RunDir) -> Status | None:
    """Take back how an earlier attempt ended, before a new one can begin, and return it. What is done stays done."""
    before = run_dir.read_status()
    if before is not None and before is not Status.DONE:
        run_dir.write_status(Status.PENDING)
    return before


@contextmanager
def begun_again(run_dirs: Sequence[RunDir]) -> Iterator[None]:
    """Take back how runs ended while they are handed to a scheduler. Where that raises, their former ends stand again.

    A run that has begun all the same keeps what it says itself.
    """
    before = [(run_dir, begin_again(run_dir)) for run_dir in run_dirs]
    try:
        yield
    except BaseException:
        for run_dir, status in before:
            if status is not None and run_dir.read_status() is Status.PENDING:
                run_dir.write_status(status)
        raise


def last_word(run_dir: RunDir, ended: JobStatus) -> Status | None:
    """Return how a run's newest attempt ended where its first rank had no time to say so; else None.

    An attempt that was replaced, or asked to stop, has none: the next start goes on.
    """
    if ended.state is not JobState.FAILED or ended.exit_code == EXIT_FENCED:
        return None
    if run_dir.read_status() in (Status.DONE, Status.FAILED, Status.DIVERGED):
        return None  # it said so itself
    owner = owner_of(run_dir)
    if owner is not None and owner.alive:
        return None  # a newer attempt has begun since
    return Status.DIVERGED if ended.exit_code == EXIT_DIVERGED else Status.FAILED


def write_down(run_dir: RunDir, ended: JobStatus) -> None:
    """Write a run's last word where it has none. For its launcher alone."""
    status = last_word(run_dir, ended)
    if status is not None:
        run_dir.record_event(status.value, error=ended.reason)
        run_dir.write_status(status)
