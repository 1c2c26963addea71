"""What Slurm says about jobs, read from `squeue` and `sacct`. Pure: text in, `JobStatus` out."""

from __future__ import annotations

from launch.job import JobState, JobStatus
from trainer.run_dir import EXIT_PREEMPTED

# `%i` of an array's member is 123_4. The widths are suffixes: a bar never appears in these fields.
SQUEUE_FIELDS = "JobArrayID:|,State:|,exit_code:|,Reason:|,NodeList:|"
SACCT_FIELDS = "JobID,State,ExitCode,Reason,NodeList"

_STATES = {
    **dict.fromkeys(
        ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD"),
        JobState.PENDING,
    ),
    **dict.fromkeys(
        ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED", "RESIZING"), JobState.RUNNING
    ),
    "COMPLETED": JobState.DONE,
    "CANCELLED": JobState.CANCELLED,
    "PREEMPTED": JobState.PREEMPTED,
    **dict.fromkeys(
        ("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "REVOKED"), JobState.FAILED
    ),
}


def parse_rows(text: str) -> dict[str, JobStatus]:
    """Read lines `id|state|exit code|reason|nodes|`. A job that is listed twice keeps its last line."""
    found = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) >= 4 and fields[0]:
            found[fields[0]] = _status(*fields[:5])
    return found


def _status(identity: str, state: str, exit_code: str, reason: str, nodes: str = "") -> JobStatus:
    word = state.split()[0].rstrip("+")  # "CANCELLED by 1000"
    known = _STATES.get(word, JobState.RUNNING)
    code = _exit_code(exit_code)
    if known is JobState.FAILED and code == EXIT_PREEMPTED:
        known = JobState.PREEMPTED
    said = "" if reason in ("None", "") else reason
    if known is JobState.PENDING:
        return JobStatus(known, reason=said or word.lower())
    if known is JobState.RUNNING:
        return JobStatus(known, reason=f"on {nodes}" if nodes else "")
    words = "" if word in ("COMPLETED", "FAILED") else word.lower().replace("_", " ")
    return JobStatus(known, code, reason=words or ("" if said == "NonZeroExitCode" else said))


def _exit_code(text: str) -> int | None:
    """Read `1:0` (code:signal, sacct) or a wait status (squeue)."""
    if ":" in text:
        code, _, number = text.partition(":")
        return -int(number) if int(number) and not int(code) else int(code)
    if not text.isdigit():
        return None
    status = int(text)
    return -(status & 0x7F) if status & 0x7F else status >> 8


def array_status(members: list[JobStatus]) -> JobStatus:
    """Return the status of a whole array: running while one runs, failed if one failed, done when all are."""
    states = [member.state for member in members]
    done = sum(s is JobState.DONE for s in states)
    reason = f"{done} of {len(states)} done"
    for state in (JobState.RUNNING, JobState.PENDING, JobState.FAILED, JobState.PREEMPTED, JobState.CANCELLED):
        if state in states:
            return next(JobStatus(state, m.exit_code, m.failure, reason) for m in members if m.state is state)
    return JobStatus(JobState.DONE, 0, reason=reason)
