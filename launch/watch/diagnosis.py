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
from launch.run.newest_step import newest_step
from launch.run.run_state import DEAD, WAITING, state_of
from launch.show.text import size
from launch.watch.causes import NOT_A_NUMBER, OUT_OF_MEMORY, SETTINGS, cause_of
from launch.watch.find_runs import sweep_of
from launch.watch.pace import pace
from trainer.contract.attempts import attempts
from trainer.contract.plain_json import DamagedFileError, read_object, rows_of
from trainer.contract.run_dir import RunDir
from trainer.node.failure import tail

TRACEBACK_LINES = 25


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
        "done": ("done", "it is done"),
        "running": ("running", "it runs"),
        "preempted": ("preempted", "it was asked to stop, saved, and can go on"),
    }.get(word, (word, "nothing was started yet"))
    if slow:
        cause = slow[0].kind
    helps = slow[0].helps if slow else ""
    details = [one.says for one in slow]
    command = "" if word == "done" else f"escala logs -f {_quoted(run)}" if word == "running" else _again(run)
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
    known = attempts(run_dir.root)
    logs = run_dir.logs(known[-1]) if known else None
    if failure is None and logs is not None:
        failure = first_failure(logs)
    says = str(failure) if failure is not None and str(failure) not in reason else reason
    if failure is not None and reason and reason not in says:
        says = f"{reason}; {says}"
    cause = cause_of("not a number" if word == "diverged" else says)
    details: list[str] = []
    helps = cause.helps
    if cause.kind == OUT_OF_MEMORY:
        details, helps = _memory(run_dir)
    if cause.kind == NOT_A_NUMBER:
        details = _divergence(run_dir)
    trace: list[str] = []
    if failure is not None and logs is not None and (log := rank_logs(logs).get(failure.rank)) is not None:
        trace = traceback_of(tail(log))
    return Diagnosis(
        str(run_dir.root), word, cause.kind, says or "it left no word", None if failure is None else failure.rank,
        "" if failure is None else failure.host, details, trace, helps, _again(run_dir.root),
    )  # fmt: skip


def traceback_of(text: str) -> list[str]:
    """Return the last traceback or dump of stacks at the end of an output, at most so many of its last lines."""
    lines = text.splitlines()
    marks = ("Traceback (most recent call last)", "Fatal Python error", "watchdog:")
    starts = [index for index, line in enumerate(lines) if any(mark in line for mark in marks)]
    return lines[starts[-1] :][-TRACEBACK_LINES:] if starts else lines[-3:]


def _memory(run_dir: RunDir) -> tuple[list[str], str]:
    """Return the plan of a rank's memory beside its measured peak, and the setting that would help most."""
    try:
        parts = dict(read_object(run_dir.plan, "memory_bytes")["memory_bytes"])
    except (FileNotFoundError, DamagedFileError, TypeError, ValueError):
        return ["there is no plan of its memory"], "lower batch.micro_batch"
    total = parts.pop("total", 0)
    largest = max(parts, key=lambda part: parts[part], default="activations")
    shown = ", ".join(f"{part} {size(n)}" for part, n in sorted(parts.items(), key=lambda p: -p[1]) if n)
    peak = (newest_step(run_dir) or {}).get("memory_peak")
    measured = f"measured peak {size(peak)}" if isinstance(peak, int | float) else "no step was measured"
    return [f"planned for a rank {size(total)}: {shown}", measured], SETTINGS.get(largest, "lower batch.micro_batch")


def _divergence(run_dir: RunDir) -> list[str]:
    skipped = [row for row in rows_of(run_dir.events, "event", "step") if row["event"] == "step_skipped"]
    row = newest_step(run_dir)
    found = [f"the last step that was recorded: {row['step']}, loss {row['loss']}"] if row else []
    if skipped:
        found.append(f"{len(skipped)} steps were not finite, the first of them step {skipped[0]['step']}")
    return found


def _again(run: Path) -> str:
    """Return the command that goes on with a run."""
    if (sweep := sweep_of(run)) != "":
        return f"escala sweep resume {shlex.quote(sweep)}.yaml"
    job, config = read_job(run), _quoted(run / "config.yaml")
    place = f"--runs {_quoted(run.parent)}"
    if job is not None:
        return f"escala submit {config} --cluster {shlex.quote(job.cluster)} {place}"
    return f"escala train {config} {place}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
