"""Slurm through its own programs: sbatch, squeue, sacct where there is accounting, scancel."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from launch.backends.logs import attempt_logs, first_failure, follow_logs, newest_logs
from launch.backends.process import Call, CallError, call
from launch.backends.slurm_script import render_script, slurm_options
from launch.backends.slurm_states import SACCT_FIELDS, SQUEUE_FIELDS, array_status, parse_rows
from launch.job import JobSpec, JobState, JobStatus
from trainer.errors import UserError
from trainer.run_dir import RunDir, Status

_NO_SUCH_NODES = "Requested node configuration is not available"
_FROM_RUN = {
    Status.DONE: JobState.DONE,
    Status.DIVERGED: JobState.FAILED,
    Status.FAILED: JobState.FAILED,
    Status.PREEMPTED: JobState.PREEMPTED,
}


class SlurmBackend:
    """Submits to the Slurm of this login node. `python` and `directory` are valid on its compute nodes.

    Secrets need no care here: sbatch hands the whole environment of the submitting shell on to the job.
    """

    def __init__(
        self,
        *,
        python: str,
        directory: Path,
        call: Call = call,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.python = python
        self.directory = directory
        self.call = call
        self.pause = pause
        self.run_dirs: dict[str, tuple[Path, ...]] = {}

    def render(self, spec: JobSpec) -> str:
        """Return the batch script."""
        return render_script(spec, python=self.python, directory=self.directory)

    def rehearse(self, spec: JobSpec) -> None:
        """Have sbatch judge the script and queue nothing. Raises UserError for what it refuses.

        It is stricter than a submission, which may wait for nodes that are down or drained now: those are no reason.
        """
        script = self.render(spec)
        try:
            self.call(["sbatch", "--test-only"], stdin=script)
        except CallError as error:
            if not (_NO_SUCH_NODES in error.text and self._nodes_are_away(spec)):
                raise UserError(self._explain(spec, error)) from None

    def submit(self, spec: JobSpec) -> str:
        """Hand the script to sbatch, make sure the controller kept it, and return its id."""
        script = self.render(spec)
        for task in spec.tasks:
            task.run_dir.mkdir(parents=True, exist_ok=True)
        spec.run_dir.mkdir(parents=True, exist_ok=True)
        try:
            answer = self.call(["sbatch", "--parsable"], stdin=script)
        except CallError as error:
            raise UserError(self._explain(spec, error)) from None
        job = answer.strip().split(";")[0]
        self._verify(job)
        self.adopt(job, tuple(task.run_dir for task in spec.tasks))
        return job

    def adopt(self, job: str, run_dirs: tuple[Path, ...]) -> None:
        """Take up a job that an earlier process submitted."""
        self.run_dirs[job] = run_dirs

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        """Ask the queue once, then accounting once for what the queue has forgotten."""
        if not ids:
            return {}
        found = parse_rows(
            self.call(["squeue", "--noheader", "--array", "--states=all", "--me", f"--Format={SQUEUE_FIELDS}"])
        )
        missing = [job for job in ids if not _members(job, found)]
        if missing:
            found.update(self._accounting(missing))
        return {job: self._with_failure(job, _collect(job, found)) or self._from_run(job) for job in ids}

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the lines of the newest attempt; a requeued job goes on with the next one."""
        run_dir = self._run_dir(job)
        if not follow:
            return attempt_logs(newest_logs(run_dir), rank)
        return follow_logs(
            lambda: newest_logs(run_dir), rank, lambda: self.status([job])[job].state.final, lambda: self.pause(2.0)
        )

    def cancel(self, job: str) -> None:
        """End a job; Slurm ends its processes."""
        self.call(["scancel", job])

    def _accounting(self, jobs: list[str]) -> dict[str, JobStatus]:
        argv = [
            "sacct",
            "--noheader",
            "--allocations",
            "--parsable2",
            f"--format={SACCT_FIELDS}",
            f"--jobs={','.join(jobs)}",
        ]
        try:
            return parse_rows(self.call(argv))
        except CallError:  # no accounting here: the run directory knows how it ended
            return {}

    def _from_run(self, job: str) -> JobStatus:
        """Return what the run's own directory says about a job that Slurm has forgotten."""
        if job not in self.run_dirs:
            raise UserError(f"Slurm does not know job {job}, and no run directory names it")
        members = []
        for run_dir in self.run_dirs[job]:
            word = RunDir(run_dir).read_status()
            if word is None:  # Slurm keeps no record of an array's member that was cancelled while it waited
                reason = "Slurm does not know it any more and it never started: cancelled while it waited"
                members.append(JobStatus(JobState.CANCELLED, reason=reason))
                continue
            state = _FROM_RUN.get(word, JobState.FAILED)
            members.append(JobStatus(state, reason="Slurm has forgotten it; this is what its run directory says"))
        return array_status(members) if len(members) > 1 else members[0]

    def _with_failure(self, job: str, status: JobStatus | None) -> JobStatus | None:
        """Add the rank that failed first, from the records of the agents."""
        if status is None or status.state is not JobState.FAILED or job not in self.run_dirs:
            return status
        run_dirs = self.run_dirs[job]
        if len(run_dirs) > 1 or not (run_dirs[0] / "logs").is_dir():
            return status
        failure = first_failure(newest_logs(run_dirs[0]))
        return replace(status, exit_code=failure.exit_code, failure=failure, reason=str(failure)) if failure else status

    def _run_dir(self, job: str) -> Path:
        base, _, index = job.partition("_")
        known = self.run_dirs.get(job) or self.run_dirs.get(base)
        if known is None:
            raise UserError(f"no run directory is known for Slurm job {job}")
        if len(known) > 1 and not index:
            raise UserError(f"job {job} is an array of {len(known)}: name a task, {job}_0 to {job}_{len(known) - 1}")
        return known[int(index)] if index and len(known) > 1 else known[0]

    def _verify(self, job: str) -> None:
        """A controller that dies right after it answered may have lost the job (seen with 22.05)."""
        try:
            self.call(["scontrol", "-o", "show", "job", job])
        except CallError as error:
            raise UserError(
                f"sbatch gave the id {job}, but the controller does not know it ({error.text}): submit again"
            ) from None

    def _nodes_are_away(self, spec: JobSpec) -> bool:
        """Return whether a node that the job may use is down, drained or failing."""
        partition = slurm_options(spec).partition
        only = [f"--partition={partition}"] if partition else []
        return bool(self.call(["sinfo", "--noheader", "--list-reasons", *only, "--format=%N"]).strip())

    def _explain(self, spec: JobSpec, error: CallError) -> str:
        text = re.sub("sbatch: error: |allocation failure: ", "", error.text).replace("\n", "; ")
        partition = slurm_options(spec).partition
        if "partition" in text and partition is not None:
            known = sorted(set(self.call(["sinfo", "--noheader", "--format=%R"]).split()))
            if missing := [name for name in partition.split(",") if name not in known]:
                return f"Slurm has no partition {missing[0]!r} (it has: {', '.join(known)}); nothing was submitted"
        if _NO_SUCH_NODES in text:
            text += f": {spec.nodes} nodes with the `options` of the cluster file; `sinfo -N -l` shows what there is"
        return f"Slurm refused job {spec.name!r}: {text}; nothing was submitted"


def _members(job: str, found: dict[str, JobStatus]) -> list[JobStatus]:
    """Return the rows of a job: its own, or those of its array's members."""
    if job in found:
        return [found[job]]
    return [status for identity, status in found.items() if identity.startswith(f"{job}_")]


def _collect(job: str, found: dict[str, JobStatus]) -> JobStatus | None:
    members = _members(job, found)
    if not members:
        return None
    return members[0] if len(members) == 1 and job in found else array_status(members)
