"""`escala submit`: a run on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.commands.options import cluster_option, json_option, runs_option, set_option

if TYPE_CHECKING:
    from launch.backends.registry import Submitted


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@cluster_option
@set_option
@runs_option
@click.option("--after", multiple=True, metavar="RUN", help="Start when this run is done (Slurm): a name or an id.")
@click.option("--replace", is_flag=True, help="End the job that has this run now.")
@json_option
def submit(
    config: Path,
    cluster: str,
    assignments: tuple[str, ...],
    runs: Path,
    after: tuple[str, ...],
    replace: bool,
    as_json: bool,
) -> None:
    """Submit the run CONFIG to a cluster. Submitted again, it goes on where it stopped.

    A run that waits or runs already is refused, and so is one of which nobody can tell, unless you say --replace.
    On Slurm and Kubernetes this returns at once. On SSH hosts and on this machine it stays, shows what rank 0 prints,
    and Ctrl-C lets the ranks save before they end.

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

    from launch.backends import attached
    from launch.backends.cluster import lasting_name, open_backend
    from launch.backends.submission import (
        check_free,
        jobs_before,
        lay_out,
        prepare,
        queue,
        record_submission,
        replace_job,
    )
    from launch.backends.warnings import warn
    from trainer.errors import UserError

    wanted = prepare(config, assignments, cluster, runs)
    kind = wanted.cluster.backend
    if as_json and kind not in ("slurm", "kubernetes"):
        raise UserError(f"--json has no effect on {kind}: this process runs the job itself, to its end")
    if not replace:
        check_free(wanted.spec.run_dir)
    spec = with_changes(wanted.spec, after=jobs_before(runs, after, wanted.cluster))
    wanted = with_changes(wanted, spec=spec)
    backend = open_backend(wanted.cluster)
    warn(spec, kind)
    lay_out(wanted, backend)
    if replace and (said := replace_job(spec.run_dir)):
        click.echo(said, err=as_json)
    queued = kind in ("slurm", "kubernetes")
    job = queue(backend, spec) if queued else attached.job_id()
    (row,) = record_submission(spec, job, lasting_name(cluster), wanted.cluster, backend)
    if queued:
        _tell(row, runs, as_json)
    else:
        _attend(backend, spec, row)


def _tell(row: Submitted, runs: Path, as_json: bool) -> None:
    """Print where a run was queued, and what to do next."""
    from launch.runs_root import runs_flag

    if as_json:
        click.echo(json.dumps(row.to_json()))
        return
    place = runs_flag(runs)
    click.echo(f"submitted {row.name} as {row.backend} job {row.job}: {row.run_dir}")
    click.echo(f"  escala logs -f {row.job}{place}\n  escala jobs{place}\n  escala cancel {row.job}{place}")


def _attend(backend: object, spec: object, row: object) -> None:
    """Run an attached job to its end, and leave with its result."""
    from launch.backends.local import LocalBackend
    from launch.backends.registry import Submitted
    from launch.backends.ssh import SshBackend
    from launch.backends.submission import follow
    from launch.job import JobSpec, JobState
    from trainer.errors import UserError

    assert isinstance(backend, LocalBackend | SshBackend) and isinstance(spec, JobSpec) and isinstance(row, Submitted)

    def show() -> None:
        for line in backend.logs(job, rank=0, follow=True):
            click.echo(line)

    with backend:
        job = backend.submit(spec)
        follow(row, show, lambda: backend.cancel(job))
        status = backend.status([job])[job]
    if status.state is JobState.DONE:
        click.echo(f"done: {spec.run_dir}")
    elif status.state in (JobState.PREEMPTED, JobState.CANCELLED):
        click.echo(f"stopped and saved: {spec.run_dir}; the same command goes on")
    else:
        raise UserError(f"{spec.name} failed: {status.reason} (logs in {spec.run_dir / 'logs'})")
