"""What looks forgotten about a job, said before it is submitted or rendered."""

from __future__ import annotations

import click

from launch.cluster.job import JobSpec


def warn(spec: JobSpec, backend: str) -> None:
    """Say on standard error what looks forgotten. Nothing is refused: a cluster may be made that way."""
    if backend == "slurm":
        from launch.cluster.slurm.script import warnings
    elif backend == "kubernetes":
        from launch.cluster.kubernetes.options import warnings
    else:
        return
    for text in warnings(spec):
        click.secho(f"warning: {text}", fg="yellow", err=True)
