"""The story of a submission: a run and a cluster become a checked job, its directory, and a record to find it by."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launch.backends.cluster import ClusterConfig, load_cluster
from launch.backends.registry import Submitted
from launch.job import JobSpec
from trainer.config.differences import differences
from trainer.config.load import dump, load_run
from trainer.config.plan import share_out
from trainer.config.run import RunConfig
from trainer.errors import UserError
from trainer.run_dir import RunDir, Status, write_atomically


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
    refuse_other_run(run_dir, config)
    if run_dir.read_status() is Status.DONE:
        raise UserError(f"this run is done: {run_dir.root}; --set name={config.name}-2 trains it again")
    write_atomically(run_dir.config, dump(config))


def refuse_other_run(run_dir: RunDir, config: RunConfig) -> None:
    """Raise UserError where the directory holds a run that computes something else, naming what differs."""
    if not run_dir.config.exists():
        return
    theirs = load_run(run_dir.config)
    if theirs.result_hash() != config.result_hash():
        raise UserError(
            f"{run_dir.root} holds another run ({differences(theirs.result_values(), config.result_values())}): give "
            f"this one another name, such as --set name={config.name}-2, or remove the directory"
        )


def follow(row: Submitted, lines: Callable[[], None], stop: Callable[[], None]) -> None:
    """Stay with an attached job: `lines` prints until it ends; SIGTERM, like Ctrl-C, runs `stop` in between."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        lines()
    except KeyboardInterrupt:
        print(f"stopping {row.name} on {socket.gethostname()}: ranks save first", flush=True)
        stop()
        lines()
    finally:
        signal.signal(signal.SIGTERM, previous)
