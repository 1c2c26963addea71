"""The configuration of `accelerate launch` for a run, and how the run stands by its own record.

Accelerate starts processes and tells them their ranks, as torchrun does. Precision, compilation and sharding are
settings of the run, so Accelerate's own stay off; what its file cannot hold is refused by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from launch.cluster.accelerate.descriptor import AccelerateOptions
from launch.cluster.ended import STATE_OF, by_record, failed_by_record
from launch.cluster.job import NOBODY, JobIdentity, JobSpec, JobStatus, Requeue
from launch.cluster.logs import attempt_logs, follow_logs, newest_logs
from launch.cluster.quoting import check_spec, label, sh
from trainer.config.base import parse_section
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status, write_atomically

NAME = "accelerate"
FILE = "accelerate.yaml"  # in the run directory
POLL_SECONDS = 1.0


class AccelerateBackend:
    """Writes configurations. Nobody can be asked about a job: its run directory tells."""

    def __init__(self, *, python: str) -> None:
        self.python = python
        self.known: dict[str, Path] = {}

    def render(self, spec: JobSpec) -> str:
        """Return the configuration as YAML, with the commands that use it in front as comments."""
        check_spec(spec)
        _refuse(spec)
        options = parse_section(AccelerateOptions, dict(spec.extras), NAME)
        if spec.nodes > 1 and options.main_process_ip is None:
            raise UserError(
                f"job {spec.name!r} has {spec.nodes} nodes, which must find the first: set options.main_process_ip"
            )
        where = f"on each of {spec.nodes} machines, N from 0 on" if spec.nodes > 1 else "on this machine"
        values = {
            "compute_environment": "LOCAL_MACHINE",
            # One process a rank with the variables of torchrun, which is what MULTI_GPU says, on processors too.
            "distributed_type": "MULTI_GPU" if spec.world_size > 1 else "NO",
            "num_machines": spec.nodes,
            "num_processes": spec.world_size,
            "machine_rank": 0,
            "main_process_ip": options.main_process_ip,
            "main_process_port": options.main_process_port,
            "mixed_precision": "no",
            "use_cpu": False,
        }
        kept = {key: value for key, value in values.items() if value is not None}
        head = f"# {where}, in {spec.directory or Path.cwd()}:\n#   {self.start(spec)}\n"
        return head + yaml.safe_dump(kept, sort_keys=False)

    def start(self, spec: JobSpec) -> str:
        """Return the command that starts the run."""
        words = "".join(f" {sh(word)}" for word in spec.command)
        number = " --machine_rank N" if spec.nodes > 1 else ""
        return f"{sh(self.python)} -m accelerate.commands.launch --config_file {sh(spec.run_dir / FILE)}{number}{words}"

    def rehearse(self, spec: JobSpec) -> None:
        """Raise UserError where the file could not be written."""
        self.render(spec)

    def submit(self, spec: JobSpec) -> str:
        """Write the file into the run directory. Whoever reads it starts the run."""
        text, job = self.render(spec), f"{NAME}-{label(spec.name)}"
        write_atomically(spec.run_dir / FILE, text)
        self.adopt(job, (spec.run_dir,), NOBODY)
        return job

    def adopt(self, job: str, run_dirs: tuple[Path, ...], identity: JobIdentity) -> None:
        """Take up a run that was laid out before."""
        (self.known[job],) = run_dirs

    def identity(self, job: str) -> JobIdentity:
        """Return nobody's: there is no scheduler."""
        return NOBODY

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        """Return how each run stands by its own record."""
        return {job: self._status(self._run_dir(job)) for job in ids}

    def _status(self, run_dir: Path) -> JobStatus:
        ended = by_record(run_dir) or failed_by_record(run_dir)
        if ended is not None:
            return ended
        word = RunDir(run_dir).read_status() or Status.PENDING
        reason = f"{run_dir / FILE} says how to start it" if word is Status.PENDING else "by its own record"
        return JobStatus(STATE_OF[word], reason=reason)

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield what ranks left in the run directory; their output is on the terminal of `accelerate launch`."""
        run_dir = self._run_dir(job)
        if not follow:
            return attempt_logs(newest_logs(run_dir), rank)
        return follow_logs(
            lambda: newest_logs(run_dir),
            rank,
            lambda: self._status(run_dir).state.final,
            lambda: time.sleep(POLL_SECONDS),
        )

    def batch_lines(self, job: str) -> Iterator[str] | None:
        """Return nothing: there is no script."""
        return None

    def cancel(self, *jobs: str) -> None:
        """Raise UserError: only its own terminal reaches `accelerate launch`."""
        raise UserError(f"{', '.join(jobs)}: end `accelerate launch` where you started it")

    def _run_dir(self, job: str) -> Path:
        if job not in self.known:
            raise UserError(f"no run directory is known for job {job}")
        return self.known[job]


def _refuse(spec: JobSpec) -> None:
    """Raise UserError that names what Accelerate's file has no place for."""
    settings = {
        f"environment ({', '.join(spec.environment)})": bool(spec.environment),
        "time_limit": spec.time_limit is not None,
        "requeue": spec.requeue != Requeue(),
        "--after": bool(spec.after),
    }
    if refused := [name for name, given in settings.items() if given]:
        raise UserError(
            f"job {spec.name!r}: {', '.join(refused)} cannot be written into a configuration of `accelerate launch`: "
            "leave it out of the cluster file, and export variables where you start it"
        )
