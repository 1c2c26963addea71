"""`escala render`: what would be submitted, byte for byte."""

from __future__ import annotations

from pathlib import Path

import click

from launch.commands.options import cluster_option, runs_option, set_option


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@cluster_option
@set_option
@runs_option
def render(config: Path, cluster: str, assignments: tuple[str, ...], runs: Path) -> None:
    """Print what `escala submit` would hand over: a batch script, a manifest, or the commands. Nothing is written.

    \b
    Examples:
      escala render configs/run/tiny.yaml --cluster slurm
      escala render configs/run/tiny.yaml --cluster kubernetes | kubectl apply --dry-run=server -f -
    """
    from launch.cluster.config import open_backend
    from launch.cluster.warnings import warn
    from launch.run.submission import prepare

    wanted = prepare(config, assignments, cluster, runs)
    warn(wanted.spec, wanted.cluster.backend)
    click.echo(open_backend(wanted.cluster).render(wanted.spec), nl=False)
