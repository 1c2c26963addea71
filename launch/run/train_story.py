"""The story of one run on this machine: data, plan, ranks, and what they say."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launch.cluster import attached
from launch.cluster.config import LOCAL, open_driver
from launch.cluster.job import JobSpec, JobState, JobStatus
from launch.cluster.registry import record
from launch.cluster.this_machine import local_gpus
from launch.planner.expected import matrix_rate, seconds_on_cpu
from launch.run.data_preparation import resolve
from launch.run.progress import show_training
from launch.run.rank_packages import need_rank_packages
from launch.run.run_state import DEAD, begin_again, divergence_of, rank_code, state_of, write_down
from launch.run.submission import claim, follow, refuse_other_run
from launch.show.console import make_console
from launch.show.plan_table import run_table
from trainer.checkpoint.compatible import check_start
from trainer.config.load import load_run
from trainer.config.run import RunConfig
from trainer.contract.errors import EndedBadlyError
from trainer.contract.exit_codes import EXIT_DIVERGED, EXIT_INTERRUPTED, EXIT_PREEMPTED
from trainer.contract.expected import ExpectedCurve
from trainer.contract.leaving import OTHERS
from trainer.contract.run_dir import RunDir, Status
from trainer.data.store.pinned import pinned
from trainer.plan.length import total_steps
from trainer.plan.likeness import likeness, unlike_expected
from trainer.plan.plan import make_plan, share_out


def train_here(
    config_path: Path,
    assignments: tuple[str, ...],
    runs: Path,
    *,
    ranks: int | None,
    dry_run: bool,
    expected: Path | None = None,
) -> None:
    """Train one run to its end, printing what its first rank prints. `expected`: the curve that it follows.

    Raises `UserError` before anything is started, and `EndedBadlyError` with the rank's exit code where it failed.
    """
    console = make_console()
    config = load_run(config_path, assignments)
    gpus = len(local_gpus(os.environ))
    world = ranks or gpus or 1
    share_out(config, world, gpu=gpus > 0)  # what does not fit is said before data are prepared
    config, manifest = resolve(config)
    run_dir = RunDir(runs / config.name)
    curve = None if expected is None else ExpectedCurve.load(expected)
    if curve is not None:
        curve.refuse_other(likeness(config), total_steps(config))
    if not dry_run:
        refuse_other_run(run_dir, config, gpu=gpus > 0)
        manifest = pinned(run_dir.data, manifest)
    plan = make_plan(config, world=world, gpu=gpus > 0, train_tokens=manifest.tokens("train"))
    seconds = None if gpus else seconds_on_cpu(config, plan, matrix_rate(), ranks=world)
    console.print(run_table(plan, seconds))
    if dry_run:
        if curve is not None and (unlike := unlike_expected(curve, config, manifest.data_hash)):
            print(f"warning: {OTHERS}: {unlike}", file=sys.stderr)  # as the first rank says when it starts
        return
    if run_dir.read_status() is Status.DONE:
        console.print(f"\nthis run is done: {run_dir.root} (another name trains it again)", highlight=False)
        return
    check_start(config, manifest, run_dir.checkpoints)
    _tell_former(run_dir)
    need_rank_packages([config.parallel.engine])
    claim(run_dir, config, gpu=gpus > 0)
    begin_again(run_dir)
    if curve is not None:
        curve.save(run_dir.expected)
    status = _run(config, run_dir, world, plan.steps)
    _tell(status, run_dir, config_path)


def _run(config: RunConfig, run_dir: RunDir, world: int, steps: int) -> JobStatus:
    with open_driver(LOCAL.model_copy(update={"ranks_per_node": world})) as backend:
        command = ("-m", "trainer.train", "--run-dir", str(run_dir.root))
        spec = JobSpec(config.name, command, run_dir.root, ranks_per_node=world)
        job = backend.submit(spec)
        (row,) = record(spec, attached.job_id(), cluster=LOCAL.backend, backend=LOCAL.backend)

        def show() -> None:
            show_training(backend.logs(job, rank=0, follow=True), run_dir, steps)

        follow(row, show, lambda: backend.cancel(job))
        ended = backend.status([job])[job]
    write_down(run_dir, ended)
    return ended


def _tell_former(run_dir: RunDir) -> None:
    """Say what became of an attempt that still says it runs."""
    former = state_of(run_dir)
    if former.word == DEAD:
        print(f"the attempt before {former.reason}")
    elif former.word == Status.RUNNING:
        print(f"warning: {run_dir.root} is being trained by another process{former.reason and ' ' + former.reason}: "
              "this attempt replaces it", file=sys.stderr)  # fmt: skip


def _tell(status: JobStatus, run_dir: RunDir, config_path: Path) -> None:
    """Say how the run ended, and leave with the code of the table in docs/run-directory.md."""
    if status.state is JobState.DONE:
        print(f"\ndone: {run_dir.root}\n  escala sample {run_dir.root} --prompt 'def '")
    elif status.state in (JobState.PREEMPTED, JobState.CANCELLED):
        print(f"\nstopped: {run_dir.root}\n  escala train {config_path} goes on from its newest checkpoint")
        sys.exit(EXIT_PREEMPTED if status.exit_code == EXIT_PREEMPTED else EXIT_INTERRUPTED)
    elif run_dir.read_status() is Status.DIVERGED:
        raise EndedBadlyError(
            f"the run diverged ({divergence_of(run_dir)}), see {run_dir.events}: lower optim.lr, or set "
            "guard.non_finite, or guard.spike where it says so, to skip",
            EXIT_DIVERGED,
        )
    else:
        raise EndedBadlyError(
            f"the run failed: {status.reason}. Logs: {run_dir.root / 'logs'}", rank_code(status.exit_code)
        )
