"""`escala submit`: a run on a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import click

from launch.commands.options import cluster_option, json_option, runs_option, set_option


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@cluster_option
@set_option
@runs_option
@json_option
def submit(config: Path, cluster: str, assignments: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Submit the run CONFIG to a cluster. Submitted again, it goes on where it stopped.

    On Slurm and Kubernetes this returns at once. On SSH hosts and on this machine it stays, shows what rank 0 prints,
    and Ctrl-C lets the ranks save before they end.

    \b
    Examples:
      escala render configs/run/tiny.yaml --cluster slurm     what would be submitted
      escala submit configs/run/tiny.yaml --cluster slurm --runs /shared/runs
      escala submit configs/run/tiny.yaml --cluster slurm --runs /shared/runs --json | jq -r .job
      escala submit configs/run/tiny.yaml --cluster ssh --set tokens=20M
      escala logs -f tiny
    """
    from launch.backends import attached, registry
    from launch.backends.cluster import open_backend
    from launch.backends.submission import prepare, write_config
    from launch.data_preparation import resolve
    from launch.runs_root import runs_flag
    from trainer.config.plan import make_plan
    from trainer.errors import UserError

    wanted = prepare(config, assignments, cluster, runs)
    kind = wanted.cluster.backend
    if as_json and kind not in ("slurm", "kubernetes"):
        raise UserError(f"--json has no effect on {kind}: this process runs the job itself, to its end")
    backend = open_backend(wanted.cluster)
    backend.rehearse(wanted.spec)  # what the cluster refuses is said before the data are prepared
    run, manifest = resolve(wanted.config)
    gpu = wanted.cluster.gpu is not None
    make_plan(run, world=wanted.spec.world_size, gpu=gpu, train_tokens=manifest.tokens("train"))
    write_config(wanted, run)
    if kind in ("slurm", "kubernetes"):
        job = backend.submit(wanted.spec)
        (row,) = registry.record(wanted.spec, job, cluster=cluster, backend=kind)
        if as_json:
            click.echo(json.dumps(row.to_json()))
            return
        click.echo(f"submitted {run.name} as {kind} job {job}: {wanted.spec.run_dir}")
        place = runs_flag(runs)
        click.echo(f"  escala logs -f {job}{place}\n  escala jobs{place}\n  escala cancel {job}{place}")
        return
    (row,) = registry.record(wanted.spec, attached.job_id(), cluster=cluster, backend=kind)
    _attend(backend, wanted.spec, row)


def _attend(backend: object, spec: object, row: object) -> None:
    """Run an attached job to its end, and leave with its result."""
    from launch.backends.local import LocalBackend
    from launch.backends.registry import Submitted
    from launch.backends.ssh import SshBackend
    from launch.backends.submission import follow
    from launch.job import JobSpec, JobState
    from launch.run_state import rank_code, write_down
    from trainer.errors import EndedBadlyError
    from trainer.run_dir import RunDir

    assert isinstance(backend, LocalBackend | SshBackend) and isinstance(spec, JobSpec) and isinstance(row, Submitted)

    def show() -> None:
        for line in backend.logs(job, rank=0, follow=True):
            click.echo(line)

    with backend:
        job = backend.submit(spec)
        follow(row, show, lambda: backend.cancel(job))
        status = backend.status([job])[job]
    write_down(RunDir(spec.run_dir), status)
    if status.state is JobState.DONE:
        click.echo(f"done: {spec.run_dir}")
    elif status.state in (JobState.PREEMPTED, JobState.CANCELLED):
        click.echo(f"stopped and saved: {spec.run_dir}; the same command goes on")
    else:
        text = f"{spec.name} failed: {status.reason} (logs in {spec.run_dir / 'logs'})"
        raise EndedBadlyError(text, rank_code(status.exit_code))
