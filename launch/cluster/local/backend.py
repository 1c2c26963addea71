"""This machine as a cluster: a queue that packs jobs into the slots (rank processes) that exist.

Ranks are forked from one warm process (`trainer.node.rank_server`), so that forty tiny runs do not pay forty imports of
torch; see `ranks` for those on GPUs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.cluster.attached import job_id
from launch.cluster.driven import tell
from launch.cluster.job import JobSpec, JobState, JobStatus
from launch.cluster.local.job import LocalJob
from launch.cluster.local.ranks import Ranks
from launch.cluster.local.warm import PRELOAD
from launch.cluster.logs import attempt_logs, follow_logs, rank_failure
from launch.cluster.quoting import check_spec, sh
from trainer.contract.attempts import claim_attempt, standstill
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import AGREED_EXITS, EXIT_PREEMPTED
from trainer.contract.run_dir import RunDir
from trainer.node.failure import oom_kills, port_was_taken, why_ended
from trainer.node.first_failure import Ending, first_failure

FAILURE_GRACE = 5.0  # seconds between TERM and KILL for the peers of a rank that failed
SAVE_GRACE = 60.0  # the same for ranks that were asked to save and stop, or that agreed to stop
PORT_TRIES = 3
DUMP_SECONDS = 0.1  # for ranks to write their stacks before they are ended


class LocalBackend:
    """Runs jobs on this machine. `slots` is the number of ranks that may run at a time."""

    def __init__(
        self,
        slots: int,
        environment: Mapping[str, str] | None = None,
        *,
        threads: int | None = None,
        preload: Sequence[str] = PRELOAD,
        python: str = sys.executable,
        log: Path | None = None,
        slots_per_gpu: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if slots < 1:
            raise UserError(f"slots ({slots}) must be at least 1")
        base = dict(os.environ if environment is None else environment)
        self.ranks = Ranks(
            slots, base, threads=threads, preload=preload, python=python, log=log, slots_per_gpu=slots_per_gpu
        )
        self.slots = slots
        self.python = python
        self.clock = clock
        self.jobs: dict[str, LocalJob] = {}
        self.queue: list[str] = []
        self._former: Any = None  # what SIGUSR2 did before

    def rehearse(self, spec: JobSpec) -> None:
        """Raise UserError where the job cannot be rendered, or its directory or interpreter are not here."""
        self.render(spec)
        if spec.directory is not None and not spec.directory.is_dir():
            raise UserError(
                f"job {spec.name!r}: there is no directory {spec.directory} on {socket.gethostname()}: set `directory`"
            )
        if shutil.which(self.python) is None:
            raise UserError(f"there is no interpreter {self.python} on {socket.gethostname()}: set `python`")

    def submit(self, spec: JobSpec) -> str:
        """Queue a job and start it if there is room. Raises UserError when it can never fit."""
        if spec.array:
            raise UserError(
                f"job {spec.name!r}: submit the {len(spec.array)} tasks of an array one by one to this machine"
            )
        if spec.world_size > self.slots:
            raise UserError(
                f"job {spec.name!r} needs {spec.world_size} ranks ({spec.nodes} nodes x {spec.ranks_per_node}), "
                f"but there are {self.slots} slots; ask for fewer ranks or give more slots"
            )
        self.ranks.gpus.check(spec.name, spec.world_size)
        self.rehearse(spec)
        unknown = [other for other in spec.after if other not in self.jobs]
        if unknown:
            raise UserError(f"job {spec.name!r} waits for {', '.join(unknown)}, which this backend does not know")
        job = LocalJob(f"local-{len(self.jobs)}", spec)
        self.jobs[job.identity] = job
        self.queue.append(job.identity)
        self._start_ready()
        return job.identity

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        """Take in what has happened, start what can be started, and return the status of each job."""
        self.wait(0.0)
        return {identity: self._job(identity).status for identity in ids}

    def wait(self, seconds: float) -> None:
        """Sleep until something happens to a rank, at most for `seconds`, and act on it."""
        now = self.clock()
        times = [t for job in self.jobs.values() for t in (job.kill_at, job.limit_at) if t is not None]
        until = max(0.0, min([seconds, *(t - now for t in times)]))
        while ended := self._endings(until):
            for identity, rank, code in ended:
                self._rank_ended(self.jobs[identity], rank, code)
            until = 0.0
        self._enforce_times()
        self._start_ready()

    def cancel(self, *jobs: str) -> None:
        """End jobs: ranks are asked to stop, then killed. Returns at once; `status` follows it."""
        for found in [self._job(job) for job in jobs]:
            if found.status.state is JobState.PENDING:
                self.queue.remove(found.identity)
                found.status = JobStatus(JobState.CANCELLED, reason="cancelled before it started")
            elif found.status.state is JobState.RUNNING:
                found.cancelled = True
                self._end_ranks(found, SAVE_GRACE)

    def dump_stacks(self) -> None:
        """Have every rank that runs write down where it is, see `trainer.node.stacks`. Safe in a signal handler."""
        for job in self.jobs.values():
            if job.running:
                self.ranks.signal(job, signal.SIGUSR2)

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the lines of the job's newest attempt. Followed again, those that were not yielded yet."""
        found = self._job(job)
        if follow:
            return follow_logs(
                *(lambda: found.log_dir, rank, lambda: self.status([job])[job].state.final, lambda: self.wait(0.2)),
                offsets=found.offsets.setdefault(rank, {}),
            )
        return attempt_logs(found.log_dir, rank)

    def render(self, spec: JobSpec) -> str:
        """Return the command of one rank and the variables that tell ranks apart, as a shell would read them."""
        check_spec(spec)
        lines = [f"# {spec.world_size} ranks on this machine, each with RANK, LOCAL_RANK, WORLD_SIZE and MASTER_*"]
        before = "".join(f"{name}={sh(value)} " for name, value in sorted(spec.environment.items()))
        lines += [before + shlex.join([self.python, *task.command]) for task in spec.tasks]
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """End everything that runs and leave no process behind."""
        for job in self.jobs.values():
            if not job.status.state.final:
                self.cancel(job.identity)
        deadline = self.clock() + SAVE_GRACE
        while any(job.running for job in self.jobs.values()) and self.clock() < deadline:
            self.wait(0.1)
        self.ranks.close()

    def __enter__(self) -> LocalBackend:
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGUSR2, lambda *_: self.dump_stacks())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._former is not None:
            signal.signal(signal.SIGUSR2, self._former)

    def _job(self, identity: str) -> LocalJob:
        if identity not in self.jobs:
            raise UserError(f"no job {identity!r} on this machine (there are {len(self.jobs)} of this session)")
        return self.jobs[identity]

    def _start_ready(self) -> None:
        """Start queued jobs in order; a job that does not fit yet lets smaller ones pass."""
        free = self.slots - sum(len(job.running) for job in self.jobs.values())
        for identity in list(self.queue):
            job = self.jobs[identity]
            before = [self.jobs[other].status.state for other in job.spec.after]
            failed = [o for o, s in zip(job.spec.after, before, strict=True) if s.final and s is not JobState.DONE]
            if failed:
                self.queue.remove(identity)
                job.status = JobStatus(JobState.FAILED, reason=f"{failed[0]}, which it waits for, is not done")
            elif job.spec.world_size <= free and all(s is JobState.DONE for s in before):
                devices = self.ranks.devices(job.spec.world_size, (j for j in self.jobs.values() if j.running))
                if devices is not None:
                    self.queue.remove(identity)
                    free, job.devices = free - job.spec.world_size, devices
                    self._start(job)

    def _start(self, job: LocalJob) -> None:
        spec = job.spec
        job.claim = claim_attempt(spec.run_dir, f"{job_id()}/{job.identity}", repeat=job.failures)
        job.log_dir = RunDir(spec.run_dir).logs(job.claim.attempt)
        job.endings, job.told, job.kill_at, job.oom_kills = [], False, None, oom_kills()
        job.limit_at = None if spec.time_limit is None else self.clock() + 60 * spec.time_limit
        self._say(job, JobStatus(JobState.RUNNING, reason=f"on {socket.gethostname()}"))
        self.ranks.start(job)

    def _endings(self, seconds: float) -> list[tuple[str, int, int]]:
        """Return which ranks have ended. Raises UserError where their server ended, and all jobs with it."""
        try:
            return self.ranks.endings(seconds)
        except UserError as error:
            for job in self.jobs.values():
                if job.running:
                    job.running.clear()
                    self._say(job, JobStatus(JobState.FAILED, reason=f"on {socket.gethostname()}: {error}"))
            raise

    def _rank_ended(self, job: LocalJob, rank: int, code: int) -> None:
        job.running.discard(rank)
        kills = None if job.oom_kills is None else (oom_kills() or 0) - job.oom_kills
        why = why_ended(job.log_of(rank), code, oom_kills=kills, told=job.told)
        job.endings.append(Ending(rank, socket.gethostname(), code, time.time(), why, job.told))
        if code != 0 and job.kill_at is None and job.running:
            if code in AGREED_EXITS:
                job.kill_at = self.clock() + SAVE_GRACE  # its peers leave by themselves
            else:
                self.ranks.signal(job, signal.SIGUSR2)  # where they are when they are ended: `trainer.node.stacks`
                time.sleep(DUMP_SECONDS)
                self._end_ranks(job, FAILURE_GRACE)
        if not job.running:
            self._job_ended(job)

    def _job_ended(self, job: LocalJob) -> None:
        job.kill_at = job.limit_at = None
        first = first_failure(job.endings)
        log = job.log_of(first.rank) if first else job.log_dir
        if first is None:
            self._say(job, JobStatus(JobState.DONE, 0))
        elif job.cancelled:
            self._say(job, JobStatus(JobState.CANCELLED, first.code, reason="cancelled"))
        elif first.code == EXIT_PREEMPTED:
            limit = f" at the time limit of {job.spec.time_limit} min" if job.timed_out else ""
            self._say(job, JobStatus(JobState.PREEMPTED, first.code, reason=f"saved and stopped{limit}"))
        elif first.code not in AGREED_EXITS and self._starts_again(job, log):
            self.queue.insert(0, job.identity)
            self._say(job, JobStatus(JobState.PENDING, reason=f"attempt {job.claim.attempt} failed: {first}"))
        else:
            first.write(job.log_dir)
            failure = rank_failure(first)
            why = f"the time limit of {job.spec.time_limit} min is over: " if job.timed_out and first.told else ""
            stuck = f"; {job.stands_still}" if job.stands_still else ""
            self._say(job, JobStatus(JobState.FAILED, first.code, failure, f"{why}{failure}{stuck}"))

    def _say(self, job: LocalJob, status: JobStatus) -> None:
        """Keep how a job stands, here and in its run directory."""
        job.status = status
        if job.claim.attempt:  # before that it has no directory, and none is made for what never starts
            tell(job.spec.run_dir, job_id(), status)

    def _starts_again(self, job: LocalJob, log: Path) -> bool:
        if job.port_tries < PORT_TRIES and port_was_taken(log):
            job.port_tries += 1
            return True
        job.failures += 1
        if job.failures > job.spec.requeue.on_failure:
            return False
        job.stands_still = standstill(job.spec.run_dir, job.claim, ended=True)
        return not job.stands_still

    def _end_ranks(self, job: LocalJob, grace: float) -> None:
        self.ranks.signal(job, signal.SIGTERM)
        job.told = True
        job.kill_at = self.clock() + grace

    def _enforce_times(self) -> None:
        now = self.clock()
        for job in self.jobs.values():
            if job.limit_at is not None and now >= job.limit_at:
                job.limit_at, job.timed_out = None, True
                self._end_ranks(job, SAVE_GRACE)
            if job.kill_at is not None and now >= job.kill_at:
                job.kill_at = None
                self.ranks.signal(job, signal.SIGKILL)
