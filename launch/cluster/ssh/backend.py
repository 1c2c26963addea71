"""Machines over SSH, driven from this process: one connection for each node, and no remote process outlives it.

The run directory must be shared by this machine and all hosts; it is checked before anything starts. A lost host is
named within `lost_after` seconds, the others are stopped, and the run goes on when all hosts are back.
"""

from __future__ import annotations

import json
import os
import queue
import random
import secrets
import shlex
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.cluster.attached import job_id
from launch.cluster.driven import tell, telling_refusals
from launch.cluster.job import JobSpec, JobState, JobStatus
from launch.cluster.logs import attempt_logs, first_failure, follow_logs, newest_logs
from launch.cluster.quoting import check_spec
from launch.cluster.secret_names import check_secrets
from launch.cluster.ssh.connect import connect, copy_code, start_order
from launch.cluster.ssh.connection import Node, remote_command
from launch.cluster.ssh.hosts import Host, SshOptions, hosts_for, ssh_command
from trainer.contract.attempts import Claim, claim_attempt, standstill
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import AGREED_EXITS, EXIT_PORT_TAKEN, EXIT_PREEMPTED, EXIT_STANDSTILL
from trainer.node.failure import error_line

RETRY_SECONDS = 5.0
STOP_GRACE = 90.0  # for ranks that save
FAILURE_GRACE = 10.0  # for the peers of what failed
LOST = -1  # instead of an exit code: the host was lost
PORT_TRIES = 3


@dataclass
class _Job:
    identity: str
    spec: JobSpec
    hosts: list[Host]
    options: SshOptions
    status: JobStatus = field(default_factory=lambda: JobStatus(JobState.PENDING))
    nodes: list[Node] = field(default_factory=list)
    lost: str | None = None
    cancelled: bool = False
    stop_by: float | None = None
    retry_at: float = 0.0
    give_up_at: float | None = None
    port_tries: int = 0
    repeat: int = 0  # how often it was started before, after a host was lost
    said: list[str] = field(default_factory=list)
    offsets: dict[int | None, dict[Path, int]] = field(default_factory=dict)  # of the logs that were followed, by rank


class SshBackend:
    """Runs jobs one after another on the hosts of a cluster."""

    def __init__(
        self,
        *,
        python: str,
        directory: Path,
        secrets: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.python = python
        self.directory = directory
        self.secrets = secrets
        self.environment = os.environ if environment is None else environment
        self.jobs: dict[str, _Job] = {}
        self.inbox: queue.Queue[tuple[Node, dict[str, Any] | None]] = queue.Queue()

    def rehearse(self, spec: JobSpec) -> None:
        """Reach every host, check that they share the run directory, and hang up. Raises UserError."""
        job = self._new_job(spec)
        with telling_refusals(spec.run_dir, job_id()):
            self._copy_code(job)
            for node in self._connect(job):
                node.hang_up()

    def submit(self, spec: JobSpec) -> str:
        """Reach every host, check that they share the run directory, and start. Raises UserError, nothing started."""
        job = self._new_job(spec)
        if any(not other.status.state.final for other in self.jobs.values()):
            self._say(job, JobStatus(JobState.PENDING, reason="waits until the hosts are free"))
        else:
            with telling_refusals(spec.run_dir, job_id()):
                self._copy_code(job)
                self._start(job)
        self.jobs[job.identity] = job
        return job.identity

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        """Take in what has arrived and return the status of each job."""
        self.wait(0.0)
        return {identity: self._job(identity).status for identity in ids}

    def wait(self, seconds: float) -> None:
        """Sleep until a node says something, at most for `seconds`, and act on it."""
        try:
            self._hear(*self.inbox.get(timeout=seconds) if seconds > 0 else self.inbox.get_nowait())
            while True:
                self._hear(*self.inbox.get_nowait())
        except queue.Empty:
            pass  # all that was said has been heard
        for job in list(self.jobs.values()):
            self._watch(job)

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the lines of the newest attempt; with `follow`, also what the agents and this driver say.

        Followed again, those that were not yielded yet.
        """
        found = self._job(job)
        if not follow:
            yield from attempt_logs(newest_logs(found.spec.run_dir), rank)
            return
        lines = follow_logs(
            lambda: newest_logs(found.spec.run_dir),
            rank,
            lambda: self.status([job])[job].state.final,
            lambda: self.wait(0.2),
            lambda: [found.said.pop(0) for _ in range(len(found.said))],
            found.offsets.setdefault(rank, {}),
        )
        yield from lines

    def cancel(self, *jobs: str) -> None:
        """Ask the ranks to save and stop. Returns at once; `status` follows it."""
        for found in [self._job(job) for job in jobs]:
            found.cancelled = True
            if found.nodes:
                self._stop(found, signal.SIGTERM, STOP_GRACE)
            elif not found.status.state.final:
                self._say(found, JobStatus(JobState.CANCELLED, reason="cancelled"))

    def render(self, spec: JobSpec) -> str:
        """Return the ssh command of each node and the order that it is sent."""
        check_spec(spec)
        hosts, options = hosts_for(spec)
        lines = []
        for index, host in enumerate(hosts):
            there = host.directory or self._directory(spec)
            command = remote_command(host.python or self.python, there)
            rendezvous = f"{options.rendezvous_host or '<address of the first host>'}:<port>"
            claim = Claim(1, start="<id>")
            order = start_order(spec, there, index, claim, rendezvous, [h.name for h in hosts])
            lines.append(shlex.join([*ssh_command(host, options), command]))
            lines.append("  <<< " + json.dumps({**order, "environment": dict(spec.environment)}))
        if self.secrets:
            lines.append(f"# handed on from this shell, over the connection only: {', '.join(self.secrets)}")
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """Stop everything; no remote process stays."""
        for job in self.jobs.values():
            if not job.status.state.final:
                self.cancel(job.identity)
        deadline = time.monotonic() + STOP_GRACE
        while any(not job.status.state.final for job in self.jobs.values()) and time.monotonic() < deadline:
            self.wait(0.2)
        for job in self.jobs.values():
            for node in job.nodes:
                node.hang_up()

    def __enter__(self) -> SshBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _job(self, identity: str) -> _Job:
        if identity not in self.jobs:
            raise UserError(f"no job {identity!r} is driven by this process")
        return self.jobs[identity]

    def _new_job(self, spec: JobSpec) -> _Job:
        check_spec(spec)
        if spec.array:
            raise UserError(
                f"job {spec.name!r}: over SSH the {len(spec.array)} tasks of an array are submitted one by one"
            )
        if spec.after:
            raise UserError(f"job {spec.name!r}: over SSH no job waits for another; submit it when that is done")
        check_secrets(self.secrets, self.environment)
        hosts, options = hosts_for(spec)
        return _Job(f"ssh-{len(self.jobs)}", spec, hosts, options)

    def _copy_code(self, job: _Job) -> None:
        if job.options.sync:
            copy_code(job.hosts, job.options, self._directory(job.spec))

    def _directory(self, spec: JobSpec) -> Path:
        return spec.directory or self.directory

    def _connect(self, job: _Job) -> list[Node]:
        return connect(job.hosts, job.options, self.python, self._directory(job.spec), job.spec.run_dir, self.inbox)

    def _start(self, job: _Job) -> None:
        """Connect, claim the next attempt, and start the agents."""
        nodes = self._connect(job)
        run_dir = job.spec.run_dir
        claim = claim_attempt(run_dir, job_id(), repeat=job.repeat, start=secrets.token_hex(8))
        if refused := standstill(run_dir, claim, ended=False):
            for node in nodes:
                node.hang_up()
            self._say(job, JobStatus(JobState.FAILED, EXIT_STANDSTILL, reason=refused))
            return
        address = job.options.rendezvous_host or str((nodes[0].hello or {})["address"])
        rendezvous = f"{address}:{random.randint(20000, 39999)}"  # noqa: S311 - spreads ports, guards nothing
        handed_on = {name: self.environment[name] for name in self.secrets}
        names = [node.host.name for node in nodes]
        for index, node in enumerate(nodes):
            order = start_order(job.spec, node.directory, index, claim, rendezvous, names)
            node.send({**order, "environment": {**job.spec.environment, **handed_on}})
        job.nodes, job.lost, job.stop_by = nodes, None, None
        self._say(job, JobStatus(JobState.RUNNING, reason=f"on {', '.join(h.name for h in job.hosts)}"))

    def _say(self, job: _Job, status: JobStatus) -> None:
        """Keep how a job stands, here and in its run directory."""
        job.status = status
        if job.spec.run_dir.is_dir():
            tell(job.spec.run_dir, job_id(), status)

    def _hear(self, node: Node, message: dict[str, Any] | None) -> None:
        job = next((job for job in self.jobs.values() if node in job.nodes), None)
        if job is None:
            return
        if message is None:
            node.closed = True
            if node.code is None:
                self._lost(job, node, node.why_closed())
        elif "said" in message:
            node.said.append(message["said"])
            job.said.append(f"{node.host.name}: {message['said']}")
        elif "end" in message:
            node.code = message["end"]
            if node.code != 0 and job.stop_by is None:
                agreed = node.code in AGREED_EXITS
                self._stop(job, None if agreed else signal.SIGTERM, STOP_GRACE if agreed else FAILURE_GRACE)

    def _lost(self, job: _Job, node: Node, why: str) -> None:
        """A host is gone: say which, and end the others, whose ranks wait for it in vain."""
        node.code = LOST
        node.closed = True
        node.kill()
        if job.lost is None and not job.cancelled:
            job.lost = f"{node.host.name} was lost: {why}"
            job.said.append(f"{job.lost}; the other hosts stop, the run goes on when it is back")
            self._say(job, JobStatus(JobState.RUNNING, reason=f"{job.lost}; the other hosts stop"))
        self._stop(job, signal.SIGTERM, FAILURE_GRACE)

    def _stop(self, job: _Job, number: int | None, grace: float) -> None:
        for node in job.nodes if number is not None else ():
            if node.code is None:
                node.send({"signal": int(number or 0)})
        job.stop_by = job.stop_by or time.monotonic() + grace

    def _watch(self, job: _Job) -> None:
        """Act on what did not happen: silence, a stop that takes too long, a lost host that may be back."""
        now = time.monotonic()
        for node in job.nodes:
            if node.code is None and now - node.heard > job.options.lost_after:
                self._lost(job, node, f"no sign of life for {job.options.lost_after:g} s")
            if node.code is None and job.stop_by is not None and now > job.stop_by:
                node.send({"signal": int(signal.SIGKILL)})
        if job.nodes and all(node.code is not None for node in job.nodes):
            self._ended(job)
        elif not job.nodes and job.status.state is JobState.PENDING:
            self._start_when_possible(job, now)

    def _ended(self, job: _Job) -> None:
        codes = [node.code for node in job.nodes if node.code is not None]
        nodes, job.nodes, job.stop_by = job.nodes, [], None
        for node in nodes:
            node.hang_up()
        bad = [code for code in codes if code not in (0, LOST)]
        if job.cancelled:
            self._say(job, JobStatus(JobState.CANCELLED, bad[0] if bad else None, reason="cancelled"))
        elif job.lost is not None:
            minutes = job.options.reconnect_minutes
            job.give_up_at = time.monotonic() + 60 * minutes
            job.repeat += 1
            self._say(job, JobStatus(JobState.PENDING, reason=f"{job.lost}; waiting up to {minutes:g} min for it"))
        elif not bad:
            self._say(job, JobStatus(JobState.DONE, 0))
        elif EXIT_PORT_TAKEN in bad and job.port_tries < PORT_TRIES:
            job.port_tries += 1
            self._say(job, JobStatus(JobState.PENDING, reason="its port was taken: trying another"))
        elif EXIT_PREEMPTED in bad and (AGREED_EXITS - {EXIT_STANDSTILL}).issuperset(bad):  # a failure is not a save
            self._say(job, JobStatus(JobState.PREEMPTED, EXIT_PREEMPTED, reason="saved and stopped"))
        else:
            failure = first_failure(newest_logs(job.spec.run_dir))
            code = bad[0] if failure is None or failure.exit_code is None else failure.exit_code
            self._say(job, JobStatus(JobState.FAILED, code, failure, str(failure or _before_ranks(nodes))))

    def _start_when_possible(self, job: _Job, now: float) -> None:
        if now < job.retry_at or any(other.nodes for other in self.jobs.values()):
            return
        job.retry_at = now + RETRY_SECONDS
        try:
            self._start(job)
        except UserError as error:
            if job.give_up_at is None or now > job.give_up_at:
                before = "" if job.lost is None else f"{job.lost}; it did not come back: "
                self._say(job, JobStatus(JobState.FAILED, reason=f"{before}{error}"))
            return
        if job.give_up_at is not None and job.nodes:
            job.said.append("all hosts are back: the run goes on from its newest checkpoint")
            job.give_up_at = None


def _before_ranks(nodes: list[Node]) -> str:
    """Say which host failed, and how, where no rank has left a record."""
    node = next((node for node in nodes if node.code not in (0, LOST) and node.said), None)
    node = node or next(node for node in nodes if node.code not in (0, LOST))
    said = error_line("\n".join(node.said))
    return f"{node.host.name}: its agent left with code {node.code}" + (f": {said}" if said else "")
