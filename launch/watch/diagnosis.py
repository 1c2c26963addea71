"""Why a run died, stalled, diverged or is slow, from what it left behind; and the command that goes on."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launch.cluster.ended import failed_by_record
from launch.cluster.job import JobState, RankFailure
from launch.cluster.logs import first_failure, rank_logs
from launch.cluster.overview import statuses_of
from launch.cluster.registry import read as read_job
from launch.run.off_course import HELPS, OTHERS_HELP, left_band, unlike_expected
from launch.run.run_state import DEAD, WAITING, state_of
from launch.watch.causes import NOT_A_NUMBER, cause_of
from launch.watch.evidence import Evidence, newest_logs_of
from launch.watch.go_on import go_on
from launch.watch.pace import Slow, pace
from launch.watch.traces import traceback_of
from trainer.contract.run_dir import RunDir, Status


@dataclass(frozen=True)
class Diagnosis:
    """What is known about the state of a run. `rank` is -1 where a node failed before its ranks, None where unknown."""

    run_dir: str
    state: str
    cause: str
    says: str  # one sentence: where, how
    rank: int | None = None
    host: str = ""
    details: list[str] = field(default_factory=list)
    traceback: list[str] = field(default_factory=list)
    helps: str = ""
    command: str = ""

    def to_json(self) -> dict[str, object]:
        """Return plain values for scripts."""
        return asdict(self)


def diagnose(run: Path) -> Diagnosis:
    """Say why a run is in its state. Changes nothing; asks the scheduler of a submitted run."""
    run_dir = RunDir(run)
    word, reason, failure = _state(run_dir)
    if word in ("failed", DEAD, "diverged"):
        return _died(run_dir, word, reason, failure)
    slow = pace(run_dir) if word in ("running", "done", "preempted") else []
    cause, says = {
        "done": ("done", "all its steps are done"),
        "running": ("running", "it runs"),
        "preempted": ("preempted", "it was asked to stop, saved, and can go on"),
    }.get(word, (word, "nothing was started yet"))
    if left := left_band(run_dir):
        slow.insert(0, Slow("left its band", left, HELPS))
    elif unlike := unlike_expected(run_dir):
        slow.insert(0, Slow("other settings", unlike, OTHERS_HELP))
    if slow:
        cause = slow[0].kind
    helps = slow[0].helps if slow else ""
    details = [one.says for one in slow]
    command = "" if word == "done" else f"escala logs -f {shlex.quote(str(run))}" if word == "running" else go_on(run)
    said = f"{says}; {reason}" if reason else says
    return Diagnosis(str(run), word, cause, said, details=details, helps=helps, command=command)


def _state(run_dir: RunDir) -> tuple[str, str, RankFailure | None]:
    """Return the state in one word, why, and the failure that began it, where there is one."""
    own = state_of(run_dir)
    job = read_job(run_dir.root)
    if job is not None and own.word not in ("done", "diverged"):
        status = statuses_of([job])[job.run_dir]
        if status.state is JobState.FAILED:
            return "failed", status.reason or own.reason, status.failure
        if status.state is not JobState.UNKNOWN and own.word in (WAITING, "pending"):
            return status.state.value, status.reason, None
    if own.word == "failed" and (ended := failed_by_record(run_dir.root)) is not None:
        return "failed", ended.reason, ended.failure
    return own.word, own.reason, None


def _died(run_dir: RunDir, word: str, reason: str, failure: RankFailure | None) -> Diagnosis:
    logs = newest_logs_of(run_dir)
    if failure is None and logs is not None:
        failure = first_failure(logs)
    says = str(failure) if failure is not None and str(failure) not in reason else reason
    if failure is not None and reason and reason not in says:
        says = f"{reason}; {says}"
    cause = cause_of(NOT_A_NUMBER if word == Status.DIVERGED else says)
    rank, host = (None, "") if failure is None else (failure.rank, failure.host)
    found = cause.look(run_dir, rank) if cause.look is not None else Evidence()
    trace, details = found.stack, list(found.details)
    if unlike := unlike_expected(run_dir):
        details.append(f"it {unlike}")
    if found.rank is not None and found.rank != rank:
        rank, host = found.rank, found.host or host
    if not trace and rank is not None and logs is not None and (log := rank_logs(logs).get(rank)) is not None:
        trace = traceback_of(log)
    return Diagnosis(
        *(str(run_dir.root), word, cause.kind, says or "it left no word"), rank, host, details, trace,
        found.helps or cause.helps, go_on(run_dir.root, found, badly=True),
    )  # fmt: skip
