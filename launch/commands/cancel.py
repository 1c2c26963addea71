"""`escala cancel`: end jobs."""

from __future__ import annotations

from pathlib import Path

import click

from launch.commands.options import runs_option


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@runs_option
def cancel(jobs: tuple[str, ...], runs: Path) -> None:
    """End each JOB (an id, a name, or a run directory) and all its processes. Its checkpoints stay.

    \b
    Examples:
      escala cancel 1234
      escala cancel runs/tiny
    """
    from launch.backends import attached
    from launch.backends.overview import ATTACHED, backend_of
    from launch.backends.registry import find_one

    for row in [find_one(runs, job) for job in jobs]:
        if row.backend in ATTACHED:
            attached.cancel(row)
        else:
            backend_of([row]).cancel(row.job)
        click.echo(f"cancelled {row.name} ({row.job})")
