"""The story of one run on this machine: data, plan, ranks, and what they say."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launch.backends import attached
from launch.backends.local import LocalBackend
from launch.backends.registry import record
from launch.backends.submission import follow, refuse_other_run
from launch.backends.warm import available_cores, local_gpus
from launch.console import make_console
from launch.data_preparation import resolve
from launch.job import JobSpec, JobState, JobStatus
from launch.plan_table import run_table
from launch.planner.expected import matrix_rate, seconds_on_cpu
from trainer.checkpoint.compatible import check_start
from trainer.config.load import dump, load_run
from trainer.config.plan import make_plan, share_out
from trainer.config.run import RunConfig
from trainer.data.pinned import pinned
from trainer.errors import UserError
from trainer.run_dir import RunDir, Status, write_atomically

EXIT_INTERRUPTED = 130


def train_here(
    config_path: Path, assignments: tuple[str, ...], runs: Path, *, ranks: int | None, dry_run: bool
) -> None:
    """Train one run to its end, printing what its first rank prints. Raises UserError where it failed."""
    console = make_console()
    config = load_run(config_path, assignments)
    gpus = len(local_gpus(os.environ))
    world = ranks or gpus or 1
    share_out(config, world, gpu=gpus > 0)  # what does not fit is said before data are prepared
    config, manifest = resolve(config)
    run_dir = RunDir(runs / config.name)
    if not dry_run:
        refuse_other_run(run_dir, config)
        manifest = pinned(run_dir.data, manifest)
    plan = make_plan(config, world=world, gpu=gpus > 0, train_tokens=manifest.tokens("train"))
    seconds = None if gpus else seconds_on_cpu(config, plan, matrix_rate(), ranks=world)
    console.print(run_table(plan, seconds))
    if dry_run:
        return
    if run_dir.read_status() is Status.DONE and _same_run(run_dir, config):
        console.print(f"\nthis run is done: {run_dir.root} (another name trains it again)", highlight=False)
        return
    check_start(config, manifest, run_dir.checkpoints)
    run_dir.root.mkdir(parents=True, exist_ok=True)
    write_atomically(run_dir.config, dump(config))
    status = _run(config, run_dir, world)
    _tell(status, run_dir, config_path)


def _same_run(run_dir: RunDir, config: RunConfig) -> bool:
    return load_run(run_dir.config).result_hash() == config.result_hash()


def _run(config: RunConfig, run_dir: RunDir, world: int) -> JobStatus:
    threads = max(1, available_cores() // world)
    with LocalBackend(world, threads=threads) as backend:
        command = ("-m", "trainer.train", "--run-dir", str(run_dir.root))
        spec = JobSpec(config.name, command, run_dir.root, ranks_per_node=world)
        job = backend.submit(spec)
        (row,) = record(spec, attached.job_id(), cluster="local", backend="local")

        def show() -> None:
            for line in backend.logs(job, rank=0, follow=True):
                print(line.rstrip("\n"), flush=True)

        follow(row, show, lambda: backend.cancel(job))
        return backend.status([job])[job]


def _tell(status: JobStatus, run_dir: RunDir, config_path: Path) -> None:
    if status.state is JobState.DONE:
        print(f"\ndone: {run_dir.root}\n  escala sample {run_dir.root} --prompt 'def '")
    elif status.state in (JobState.PREEMPTED, JobState.CANCELLED):
        print(f"\nstopped: {run_dir.root}\n  escala train {config_path} goes on from its newest checkpoint")
        sys.exit(EXIT_INTERRUPTED)
    elif run_dir.read_status() is Status.DIVERGED:
        raise UserError(f"the run diverged, see {run_dir.events}: lower optim.lr, or set guard.non_finite to skip")
    else:
        raise UserError(f"the run failed: {status.reason}. Logs: {run_dir.root / 'logs'}")
