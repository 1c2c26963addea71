"""Slurm through its own programs: sbatch, squeue, sacct where there is accounting, scancel.

How a job stands is asked in this order: the run directory, which knows how a run ended; the queue, by the job's id,
checked by user, name and place, since ids begin anew; accounting. What none of them can tell is unknown.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.cluster.ended import STATE_OF, by_record, failed_by_record
from launch.cluster.job import NOBODY, JobIdentity, JobSpec, JobState, JobStatus, array_status
from launch.cluster.logs import attempt_logs, first_failure, newest_logs, rank_logs
from launch.cluster.process import Call, call
from launch.cluster.quoting import label
from launch.cluster.slurm.batch_output import batch_output, lines_of, reason_in
from launch.cluster.slurm.follow import Following
from launch.cluster.slurm.queue import AT_A_TIME, SlurmQueue, user_name
from launch.cluster.slurm.states import Listed
from launch.cluster.slurm.submit import SlurmSubmission
from trainer.contract.attempts import attempts_of
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status


@dataclass(frozen=True)
class _Known:
    """A job of ours: the directories of its runs, and what tells it from others."""

    run_dirs: tuple[Path, ...]
    identity: JobIdentity


class SlurmBackend:
    """Submits to the Slurm of this login node. `python` and `directory` are valid on its compute nodes."""

    def __init__(
        self,
        *,
        python: str,
        directory: Path,
        secrets: tuple[str, ...] = (),
        call: Call = call,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.queue = SlurmQueue(call)
        self.submission = SlurmSubmission(call, self.queue, python, directory, secrets)
        self.pause = pause
        self.known: dict[str, _Known] = {}

    def render(self, spec: JobSpec) -> str:
        """Return the batch script."""
        return self.submission.render(spec)

    def rehearse(self, spec: JobSpec) -> None:
        """Have sbatch judge the script and queue nothing. Raises UserError for what it refuses."""
        self.submission.rehearse(spec)

    def submit(self, spec: JobSpec) -> str:
        """Hand the script to sbatch, make sure the controller kept it, and return its id."""
        jobs = self.submission.submit(spec)
        site = ""
        with contextlib.suppress(UserError):  # it is submitted: what cannot be asked now is left open
            site = self.queue.site
        identity = JobIdentity(site, user_name(), label(spec.name), str(spec.run_dir))
        for job in jobs.split(","):
            self.adopt(job, tuple(task.run_dir for task in spec.tasks), identity)
        return jobs

    def identity(self, job: str) -> JobIdentity:
        """Return what tells a job that was submitted here from others."""
        return self.known[job.partition(",")[0]].identity

    def adopt(self, job: str, run_dirs: tuple[Path, ...], identity: JobIdentity = NOBODY) -> None:
        """Take up a job that an earlier process submitted, perhaps somebody else's."""
        self.known[job] = _Known(run_dirs, identity)

    def batch_lines(self, job: str) -> Iterator[str] | None:
        """Return the lines that the batch script of a job printed, None where there are none (yet)."""
        path = batch_output(job, self._run_dir(job), self._identity(job).output)
        return None if path is None else lines_of(path)

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        """Ask the queue once, then accounting once for what the queue has forgotten. Raises UserError without answer.

        A run that has ended by its own record is not asked for. Nothing is written.
        """
        found = {job: status for job in ids if (status := self._ended(job)) is not None}
        away = {job: status for job in ids if job not in found and (status := self._elsewhere(job)) is not None}
        found |= away
        asked = [job for job in ids if job not in found]
        if not asked:
            return found
        listed = self.queue.listed(asked)
        if missing := [job for job in asked if not self._rows(job, listed)]:
            accounted = self.queue.accounted(missing)
            listed |= {i: row for job in missing for i, row in self._rows(job, accounted).items()}
        for job in asked:
            rows = self._rows(job, listed)
            found[job] = self._detailed(job, _collect(job, rows) if rows else self._gone(job, listed))
        return found

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the lines of the newest attempt; a requeued job goes on with the next one.

        Followed, a job that waits is waited for, and a controller that does not answer for a while is asked again.
        """
        run_dir, output = self._run_dir(job), self._identity(job).output
        if follow:
            return Following(job, run_dir, output, lambda: self.status([job])[job], self.pause).lines(rank)
        path = batch_output(job, run_dir, output)
        if path is None or (attempts_of(run_dir, job) and rank_logs(newest_logs(run_dir))):
            return attempt_logs(newest_logs(run_dir), rank)
        return lines_of(path)  # it never came to its ranks

    def cancel(self, *jobs: str) -> None:
        """End jobs; Slurm ends their processes. Raises UserError, and ends none, unless each is still the one meant."""
        for job, status in self.status(jobs).items():
            if status.state is JobState.UNKNOWN or status.state.final:
                said = f": {status.reason}" if status.reason else ""
                raise UserError(f"job {job} is {status.state.value}{said}. Nothing was cancelled")
        for start in range(0, len(jobs), AT_A_TIME):
            self.queue.ask("scancel", *jobs[start : start + AT_A_TIME])

    def _ended(self, job: str) -> JobStatus | None:
        """Return how a job's runs ended for good, by their own record, or None while one has not."""
        known = self.known.get(job)
        states = [by_record(run_dir) for run_dir in known.run_dirs] if known else []
        ended = [state for state in states if state is not None]
        if not ended or len(ended) < len(states):
            return None
        return array_status(ended) if len(ended) > 1 else ended[0]

    def _elsewhere(self, job: str) -> JobStatus | None:
        site = self._identity(job).site
        if not site or site == self.queue.site:
            return None
        return JobStatus(
            JobState.UNKNOWN,
            reason=f"job {job} is one of cluster {site}, this machine's is {self.queue.site}: ask there",
        )

    def _identity(self, job: str) -> JobIdentity:
        known = self.known.get(job) or self.known.get(job.partition("_")[0])
        return known.identity if known else NOBODY

    def _rows(self, job: str, listed: dict[str, Listed]) -> dict[str, Listed]:
        identity = self._identity(job)
        return {i: row for i, row in _members(job, listed).items() if row.is_job_of(identity)}

    def _gone(self, job: str, listed: dict[str, Listed]) -> JobStatus:
        """Return how a job ended that Slurm has forgotten; unknown where it may only be hidden from this user."""
        if job not in self.known:
            raise UserError(f"Slurm does not know job {job}, and no run directory names it")
        identity = self._identity(job)
        other = next(iter(_members(job, listed).values()), None)
        mine = identity.user == user_name()
        certain = bool(identity.site) and (other is not None or mine or self.queue.shows_all_jobs)
        text = "Slurm has forgotten it"
        if other is not None:
            text = f"the id {job} is now that of {other.name or 'another job'}" + f" of {other.user}" * bool(other.user)
        members = [_from_run(run_dir, text, certain) for run_dir in self.known[job].run_dirs]
        return array_status(members) if len(members) > 1 else members[0]

    def _detailed(self, job: str, status: JobStatus) -> JobStatus:
        """Add what the job left in its run directory: who is waited for, who failed first, what stopped it before."""
        known = self.known.get(job)
        if known is None or len(known.run_dirs) > 1:
            return status
        run_dir = known.run_dirs[0]
        own = attempts_of(run_dir, job)
        if status.state is JobState.RUNNING and own:
            missing = _missing(RunDir(run_dir).logs(own[-1]))
            return replace(status, reason=f"{status.reason}, waits for {missing}") if missing else status
        if status.state not in (JobState.FAILED, JobState.PREEMPTED):
            return status
        failure = first_failure(RunDir(run_dir).logs(own[-1])) if own else None
        if failure is not None and status.state is JobState.FAILED:
            return replace(status, exit_code=failure.exit_code, failure=failure, reason=str(failure))
        path = batch_output(job, run_dir, known.identity.output)
        if path is None:
            told = failed_by_record(run_dir, own) if status.state is JobState.FAILED else None
            parts = [status.reason, told.reason if told is not None else ""]
            return replace(status, reason="; ".join(filter(None, parts)))
        said = "; ".join(part for part in (status.reason, reason_in(path)) if part)
        return replace(status, reason=f"{said or f'exit code {status.exit_code}'} (see {path})")

    def _run_dir(self, job: str) -> Path:
        base, _, index = job.partition("_")
        known = self.known.get(job) or self.known.get(base)
        if known is None:
            raise UserError(f"no run directory is known for Slurm job {job}")
        count = len(known.run_dirs)
        if count > 1 and not index:
            raise UserError(f"job {job} is an array of {count}: name a task, {job}_0 to {job}_{count - 1}")
        return known.run_dirs[int(index)] if index and count > 1 else known.run_dirs[0]


def _from_run(run_dir: Path, text: str, certain: bool) -> JobStatus:
    """Return what a run's own directory says about a job that is not listed any more."""
    word = RunDir(run_dir).read_status()
    if word is not None and (ended := STATE_OF[word]).final:
        return JobStatus(ended, reason=f"{text}; this is what its run directory says")
    if not certain:
        return JobStatus(JobState.UNKNOWN, reason=f"{text}, or hides it; the run says {(word or 'nothing').lower()}")
    if word is Status.RUNNING:
        return JobStatus(JobState.FAILED, reason=f"{text}, and the run ended without a word: submit it again to go on")
    # Slurm keeps no record of an array's member that was cancelled while it waited.
    return JobStatus(JobState.CANCELLED, reason=f"{text} and it never started: cancelled while it waited")


def _missing(logs: Path) -> str:
    """Return the nodes that an attempt waits for, "" for none."""
    with contextlib.suppress(OSError, ValueError):
        return str(json.loads((logs / "waiting.json").read_text(encoding="utf-8"))["missing"])
    return ""


def _members(job: str, found: dict[str, Listed]) -> dict[str, Listed]:
    """Return the rows of a job: its own, or those of its array's members."""
    if job in found:
        return {job: found[job]}
    return {identity: row for identity, row in found.items() if identity.startswith(f"{job}_")}


def _collect(job: str, rows: dict[str, Listed]) -> JobStatus:
    statuses = [row.status for row in rows.values()]
    return statuses[0] if len(statuses) == 1 and job in rows else array_status(statuses)
