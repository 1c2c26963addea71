"""`escala logs`: what the ranks of a run print."""

from __future__ import annotations

import time
from pathlib import Path

import click

from launch.commands.options import runs_option


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@click.option("--rank", type=click.IntRange(min=0), help="One rank only. Default: all, with the rank in front.")
@runs_option
def logs(job: str, follow: bool, rank: int | None, runs: Path) -> None:
    """Print the newest attempt's output of JOB: an id, a name, or a run directory.

    \b
    Examples:
      escala logs tiny --rank 0
      escala logs -f 1234
    """
    from launch.backends import attached
    from launch.backends.logs import attempt_logs, follow_logs, newest_logs
    from launch.backends.overview import ATTACHED, backend_of
    from launch.backends.registry import find_one, read

    unsubmitted = next((d for d in (Path(job), runs / job) if (d / "logs").is_dir() and read(d) is None), None)
    if unsubmitted is not None:
        lines = attempt_logs(newest_logs(unsubmitted), rank)
    else:
        row = find_one(runs, job)
        if row.backend in ATTACHED and follow:
            lines = follow_logs(
                lambda: newest_logs(row.run_dir),
                rank,
                lambda: attached.status(row).state.final,
                lambda: time.sleep(0.5),
            )
        elif row.backend in ATTACHED:
            lines = attempt_logs(newest_logs(row.run_dir), rank)
        else:
            lines = backend_of([row]).logs(row.job, rank, follow)
    for line in lines:
        click.echo(line)
