"""What looks forgotten about a job, said before it is submitted or rendered."""

from __future__ import annotations

import click

from launch.cluster.backends import find_backend
from launch.cluster.job import JobSpec


def warn(spec: JobSpec, backend: str) -> None:
    """Say on standard error what looks forgotten. Nothing is refused: a cluster may be made that way."""
    for text in find_backend(backend).warnings(spec):
        click.secho(f"warning: {text}", fg="yellow", err=True)
