"""The story of a submission: a run and a cluster become a checked job, its directory, and a record to find it by."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import attached, registry
from launch.cluster.backend import Backend
from launch.cluster.backends import is_driven, queued
from launch.cluster.config import ClusterConfig, load_cluster
from launch.cluster.driven import told
from launch.cluster.job import NOBODY, JobIdentity, JobSpec, JobState
from launch.cluster.overview import scheduler_of, statuses_of
from launch.cluster.registry import Submitted
from trainer.config.differences import differences
from trainer.config.load import dump, load_run
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status, write_atomically
from trainer.plan.identity import lasting_values, result_values
from trainer.plan.plan import share_out


@dataclass(frozen=True)
class Submission:
    """What would be submitted. Nothing was written or started yet."""

    config: RunConfig
    cluster: ClusterConfig
    spec: JobSpec


def prepare(config: Path, assignments: tuple[str, ...], cluster: str, runs: Path) -> Submission:
    """Read a run and a cluster and check that they fit. Raises UserError before anything is written."""
    run, where = load_run(config, assignments), load_cluster(cluster)
    share_out(run, where.nodes * where.ranks_per_node, gpu=where.gpu is not None)
    run_dir = runs.resolve() / run.name
    spec = where.job(run.name, ("-m", "trainer.train", "--run-dir", str(run_dir)), run_dir)
    return Submission(run, where, spec)


def write_config(submission: Submission, config: RunConfig) -> None:
    """Lay the resolved configuration into the run directory. Raises UserError where another run lives there."""
    run_dir = RunDir(submission.spec.run_dir)
    gpu = submission.cluster.gpu is not None
    if run_dir.read_status() is Status.DONE:
        refuse_other_run(run_dir, config, gpu=gpu)
        raise UserError(f"this run is done: {run_dir.root}; --set name={config.name}-2 trains it again")
    claim(run_dir, config, gpu=gpu)


def claim(run_dir: RunDir, config: RunConfig, *, gpu: bool) -> None:
    """Write the configuration into the run directory, unless it holds another run: check and write are one step.

    Of two that start together under one name, the second finds what the first wrote. The lock is the directory's own,
    so that nothing is left behind.
    """
    run_dir.root.mkdir(parents=True, exist_ok=True)
    directory = os.open(run_dir.root, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        refuse_other_run(run_dir, config, gpu=gpu)
        write_atomically(run_dir.config, dump(config))
    finally:
        os.close(directory)


def refuse_other_run(run_dir: RunDir, config: RunConfig, *, gpu: bool) -> None:
    """Raise UserError where the directory holds a run that computes something else, naming what differs.

    `gpu`: whether the ranks find one. What a run may change when it goes on is no
    difference, unless it is done.
    """
    if not run_dir.config.exists():
        return
    values = result_values if run_dir.read_status() is Status.DONE else lasting_values
    theirs, mine = (values(run, gpu=gpu) for run in (load_run(run_dir.config), config))
    if theirs != mine:
        raise UserError(
            f"{run_dir.root} holds another run ({differences(theirs, mine)}): give this one another name, "
            f"such as --set name={config.name}-2, or remove the directory"
        )


def record_submission(
    spec: JobSpec, job: str, name: str, cluster: ClusterConfig, identity: JobIdentity = NOBODY
) -> list[registry.Submitted]:
    """Write where each run of a submitted job went: what is needed to ask for it without the cluster file."""
    settings = cluster.model_dump(mode="json")
    return registry.record(spec, job, cluster=name, backend=cluster.backend, identity=identity, settings=settings)


def rehearse(backend: Backend, spec: JobSpec, name: str, cluster: ClusterConfig) -> None:
    """Have a cluster judge a job. Raises UserError where it refuses.

    Where a driver left word of it in the run directory, for no queue would know of it, `escala jobs` finds that.
    """
    try:
        backend.rehearse(spec)
    except UserError:
        last = told(spec.run_dir)
        if last is not None and last.driver == attached.job_id() and registry.read(spec.run_dir) is None:
            record_submission(spec, last.driver, name, cluster)
        raise


def check_free(run_dir: Path) -> registry.Submitted | None:
    """Raise UserError where a job of this run waits or runs, or may. Return the record of the last job, if any.

    A second one would end the first: a newer attempt always replaces an older one.
    """
    row = registry.read(run_dir)
    if row is None:
        return None
    status = statuses_of([row])[row.run_dir]
    if status.state.final:
        return row
    if status.state is JobState.UNKNOWN:
        raise UserError(
            f"whether {row.name} still runs as {row.backend} job {row.job} is unknown ({status.reason}). "
            f"When you know that it does not, --replace starts it again"
        )
    raise UserError(
        f"{row.name} is {status.state.value} as {row.backend} job {row.job}: `escala logs -f {row.job}` follows it, "
        f"--replace ends it and starts again"
    )


def replace_job(run_dir: Path) -> str:
    """End the job that has the run, where there is one that can be ended, and say so; "" where there is none."""
    row = registry.read(run_dir)
    status = None if row is None else statuses_of([row])[row.run_dir]
    if row is None or status is None or status.state not in (JobState.PENDING, JobState.RUNNING):
        return ""
    if is_driven(row.backend):
        try:
            attached.cancel(row)
        except UserError as error:  # started on another machine: the new attempt ends what is left of it
            return f"{row.name} is not ended from here ({error})"
    else:
        scheduler_of([row]).cancel(row.job)
    return f"ended {row.backend} job {row.job}, which had this run"


def jobs_before(runs: Path, words: Sequence[str], cluster: ClusterConfig) -> tuple[str, ...]:
    """Return the ids of the jobs that must be done first, by the names, ids or directories of their runs.

    Those that are done are left out. Raises UserError for one that failed, for it would be waited for in vain.
    """
    kind = queued(cluster.backend)
    if words and (kind is None or not kind.dependencies):
        raise UserError(f"--after has no effect on {cluster.backend}, which has no dependencies: submit it afterwards")
    rows = [row for word in words for row in registry.find_all(runs, word)]
    statuses, jobs = statuses_of(rows), []
    for row in rows:
        status = statuses[row.run_dir]
        if row.backend != cluster.backend or status.state is JobState.UNKNOWN:
            raise UserError(
                f"--after {row.name}: job {row.job} ({row.backend}) is not one that {cluster.backend} can wait for here"
            )
        if status.state.final and status.state is not JobState.DONE:
            raise UserError(f"--after {row.name}: it is {status.state.value} ({status.reason}), so it will not be done")
        if not status.state.final:
            jobs.append(row.job)
    return tuple(dict.fromkeys(jobs))


def follow(row: Submitted, lines: Callable[[], None], stop: Callable[[], None]) -> None:
    """Stay with an attached job: `lines` prints until it ends; SIGTERM, like Ctrl-C, runs `stop` in between."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        lines()
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, lambda *_: None)  # cancelled twice: how it ends is still waited for and told
        print(f"stopping {row.name} on {socket.gethostname()}: ranks save first", flush=True)
        stop()
        lines()
    finally:
        signal.signal(signal.SIGTERM, previous)
