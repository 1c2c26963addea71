"""What Slurm says about jobs, read from `squeue` and `sacct`. Pure: text in, rows out."""

from __future__ import annotations

from dataclasses import dataclass

from launch.cluster.job import JobIdentity, JobState, JobStatus
from trainer.contract.exit_codes import EXIT_PREEMPTED

# JobArrayID of an array's task is 123_4. A suffix of "|" prints a field without a width. What a user chose comes last:
# a bar in another job's name or path shifts nothing that is read before it.
SQUEUE_FIELDS = "JobArrayID:|,State:|,exit_code:|,Reason:|,NodeList:|,UserName:|,Name:|,STDOUT:|"
SACCT_FIELDS = "JobID,State,ExitCode,Reason,NodeList,User,JobName"

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


@dataclass(frozen=True)
class Listed:
    """One job as Slurm lists it. `stdout` is "" where the program that was asked does not tell."""

    status: JobStatus
    user: str = ""
    name: str = ""
    stdout: str = ""

    def is_job_of(self, identity: JobIdentity) -> bool:
        """Tell whether this is the job that was submitted, or another one that got its id later."""
        told = ((self.user, identity.user), (self.name, identity.name))
        if any(now and then and now != then for now, then in told):
            return False
        return not (self.stdout and identity.output and self.stdout.rpartition("/")[0] not in ("/dev", identity.output))


def parse_rows(text: str) -> dict[str, Listed]:
    """Read lines `id|state|exit code|reason|nodes|user|name|stdout`. A job that is listed twice keeps its last line."""
    found = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) >= 4 and fields[0] and fields[1]:
            found[fields[0]] = Listed(_status(*fields[:5]), *fields[5:8])
    return found


def _status(_: str, state: str, exit_code: str, reason: str, nodes: str = "") -> JobStatus:
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
    if said.startswith("Dependency"):  # the job that it waited for failed
        words = f"{words} ({said})".strip()
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
