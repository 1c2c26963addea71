"""`escala submit`: a run on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.commands.options import cluster_option, json_option, runs_option, set_option

if TYPE_CHECKING:
    from launch.cluster.backend import Backend, Driver, Scheduler
    from launch.cluster.job import JobSpec
    from launch.cluster.registry import Submitted
    from launch.run.submission import Submission


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@cluster_option
@set_option
@runs_option
@click.option("--after", multiple=True, metavar="RUN", help="Start when this run is done (Slurm): a name or an id.")
@click.option("--replace", is_flag=True, help="End the job that has this run now.")
@click.option("--detach", is_flag=True, help="On SSH hosts or this machine: go on without this terminal.")
@json_option
def submit(
    config: Path,
    cluster: str,
    assignments: tuple[str, ...],
    runs: Path,
    after: tuple[str, ...],
    replace: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Submit the run CONFIG to a cluster. Submitted again, it goes on where it stopped.

    A run that waits or runs already is refused, and so is one of which nobody can tell, unless you say --replace.
    On Slurm and Kubernetes this returns at once. On SSH hosts and on this machine it stays, shows what rank 0 prints,
    and Ctrl-C lets the ranks save before they end; with --detach a process of its own does that.

    \b
    Examples:
      escala render configs/run/tiny.yaml --cluster slurm     what would be submitted
      escala submit configs/run/tiny.yaml --cluster slurm --runs /shared/runs
      escala submit configs/run/tiny.yaml --cluster slurm --runs /shared/runs --json | jq -r .job
      escala submit configs/run/tiny.yaml --cluster ssh --set tokens=20M
      escala submit finetune.yaml --cluster slurm --runs /shared/runs --after tiny
      escala logs -f tiny
    """
    from dataclasses import replace as with_changes

    from launch.cluster import attached
    from launch.cluster.backends import is_driven
    from launch.cluster.config import lasting_name, open_driver, open_scheduler
    from launch.run.submission import check_free, jobs_before, prepare, record_submission

    wanted = prepare(config, assignments, cluster, runs)
    driven = is_driven(wanted.cluster.backend)
    _refuse_options(wanted.cluster.backend, driven, as_json, detach)
    if not replace:
        check_free(wanted.spec.run_dir)
    spec = with_changes(wanted.spec, after=jobs_before(runs, after, wanted.cluster))
    if not driven:
        scheduler = open_scheduler(wanted.cluster)
        _lay_out(wanted, spec, scheduler, cluster)
        _end_former(spec.run_dir, replace, as_json)
        _queue(scheduler, spec, wanted, cluster, runs, as_json)
        return
    driver = open_driver(wanted.cluster)
    _lay_out(wanted, spec, driver, cluster)
    if detach:
        _detach(config, cluster, assignments, runs, replace, spec.run_dir)
        return
    _end_former(spec.run_dir, replace, as_json)
    (row,) = record_submission(spec, attached.job_id(), lasting_name(cluster), wanted.cluster)
    _attend(driver, spec, row)


def _refuse_options(backend: str, driven: bool, as_json: bool, detach: bool) -> None:
    """Raise UserError for options that mean nothing on a backend."""
    from trainer.contract.errors import UserError

    if as_json and driven:
        raise UserError(f"--json has no effect on {backend}: this process runs the job itself, to its end")
    if detach and not driven:
        raise UserError(f"--detach has no effect on {backend}: its scheduler runs the job in any case")


def _end_former(run_dir: Path, replace: bool, as_json: bool) -> None:
    from launch.run.submission import replace_job

    if replace and (said := replace_job(run_dir)):
        click.echo(said, err=as_json)


def _lay_out(wanted: Submission, spec: JobSpec, backend: Backend, cluster: str) -> None:
    """Have the cluster judge the job, prepare its data, plan it, and write its configuration. Raises UserError."""
    from launch.cluster.config import lasting_name
    from launch.cluster.warnings import warn
    from launch.run.data_preparation import resolve
    from launch.run.submission import rehearse, write_config
    from trainer.plan.plan import make_plan

    warn(spec, wanted.cluster.backend)
    rehearse(backend, spec, lasting_name(cluster), wanted.cluster)  # what is refused is said before data are prepared
    run, manifest = resolve(wanted.config)
    gpu = wanted.cluster.gpu is not None
    make_plan(run, world=spec.world_size, gpu=gpu, train_tokens=manifest.tokens("train"))
    write_config(wanted, run)


def _queue(scheduler: Scheduler, spec: JobSpec, wanted: Submission, cluster: str, runs: Path, as_json: bool) -> None:
    """Hand a job to a scheduler, record it, and say how to ask for it."""
    from launch.cluster.backend import Queued
    from launch.cluster.backends import find_backend
    from launch.cluster.config import lasting_name
    from launch.run.run_state import begun_again
    from launch.run.runs_root import runs_flag
    from launch.run.submission import record_submission
    from trainer.contract.run_dir import RunDir

    with begun_again([RunDir(spec.run_dir)]):
        job = scheduler.submit(spec)
    identity = scheduler.identity(job)
    (row,) = record_submission(spec, job, lasting_name(cluster), wanted.cluster, identity)
    if as_json:
        click.echo(json.dumps(row.to_json()))
        return
    place, kind = runs_flag(runs), find_backend(wanted.cluster.backend)
    if isinstance(kind, Queued) and kind.start is not None:
        click.echo(
            f"laid out {spec.name} as job {job}: {spec.run_dir}\nstart it with\n  {kind.start(wanted.cluster, spec)}"
        )
        click.echo(f"  escala logs -f {job}{place}\n  escala jobs{place}")
        return
    click.echo(f"submitted {spec.name} as {wanted.cluster.backend} job {job}: {spec.run_dir}")
    click.echo(f"  escala logs -f {job}{place}\n  escala jobs{place}\n  escala cancel {job}{place}")


def _detach(config: Path, cluster: str, assignments: tuple[str, ...], runs: Path, replace: bool, run_dir: Path) -> None:
    """Have the same submission made by a process that outlives this terminal."""
    import sys

    from launch.cluster.detached import LOG, detach
    from launch.run.runs_root import runs_flag

    words = ["submit", str(config), "--cluster", cluster, "--runs", str(runs)]
    words += [word for text in assignments for word in ("--set", text)] + (["--replace"] if replace else [])
    job = detach([sys.executable, "-m", "launch", *words], run_dir)
    click.echo(f"driven by {job}, which writes to {run_dir / LOG}")
    place = runs_flag(runs)
    click.echo(f"  escala logs -f {run_dir.name}{place}\n  escala cancel {run_dir.name}{place}")


def _attend(driver: Driver, spec: JobSpec, row: Submitted) -> None:
    """Run an attached job to its end, and leave with its result."""
    from launch.cluster.job import JobState
    from launch.run.run_state import rank_code, write_down
    from launch.run.submission import follow
    from trainer.contract.errors import EndedBadlyError
    from trainer.contract.run_dir import RunDir

    def show() -> None:
        for line in driver.logs(job, rank=0, follow=True):
            click.echo(line)

    with driver:
        job = driver.submit(spec)
        follow(row, show, lambda: driver.cancel(job))
        status = driver.status([job])[job]
    write_down(RunDir(spec.run_dir), status)
    if status.state is JobState.DONE:
        click.echo(f"done: {spec.run_dir}")
    elif status.state in (JobState.PREEMPTED, JobState.CANCELLED):
        click.echo(f"stopped and saved: {spec.run_dir}; the same command goes on")
    else:
        text = f"{spec.name} failed: {status.reason} (logs in {spec.run_dir / 'logs'})"
        raise EndedBadlyError(text, rank_code(status.exit_code))
