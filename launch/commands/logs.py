"""`escala logs`: what the ranks of a run print."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.commands.options import runs_option
from trainer.contract.errors import UserError

if TYPE_CHECKING:
    from launch.cluster.registry import Submitted


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends; one that waits is waited for.")
@click.option("--rank", type=click.IntRange(min=0), help="One rank only. Default: all, with the rank in front.")
@click.option("--attempt", type=click.IntRange(min=1), help="An earlier attempt. Default: the newest.")
@click.option("--batch", is_flag=True, help="What the batch script itself printed (Slurm).")
@runs_option
def logs(job: str, follow: bool, rank: int | None, attempt: int | None, batch: bool, runs: Path) -> None:
    """Print the newest attempt's output of JOB: an id, a name, or a run directory.

    A Slurm job that ended before its ranks began has no other output than that of its batch script, which is shown.

    \b
    Examples:
      escala logs tiny --rank 0
      escala logs -f 1234
      escala logs 1234 --attempt 1
      escala logs 1234 --batch
    """
    if follow and (attempt is not None or batch):
        raise UserError("--follow shows the newest attempt as it runs: leave out --attempt and --batch")
    if batch and (attempt is not None or rank is not None):
        raise UserError("a batch script has no ranks, and all attempts in one file: leave out --rank and --attempt")
    for line in _lines(job, runs, follow=follow, rank=rank, attempt=attempt, batch=batch):
        click.echo(line)


def _lines(job: str, runs: Path, *, follow: bool, rank: int | None, attempt: int | None, batch: bool) -> Iterator[str]:
    from launch.cluster.logs import attempt_logs, newest_logs
    from launch.cluster.registry import JOB_FILE, find_one

    places = (d for d in (Path(job), runs / job) if (d / "logs").is_dir() and not (d / JOB_FILE).exists())
    if (unsubmitted := next(places, None)) is not None:
        if batch:
            raise UserError(f"{unsubmitted} was not submitted to a scheduler: it has no batch output")
        return attempt_logs(_attempt(unsubmitted, attempt) if attempt else newest_logs(unsubmitted), rank)
    row = find_one(runs, job)
    if batch:
        return _batch(row)
    if attempt is not None:
        return attempt_logs(_attempt(row.run_dir, attempt), rank)
    return _of_row(row, follow, rank)


def _of_row(row: Submitted, follow: bool, rank: int | None) -> Iterator[str]:
    from launch.cluster import attached
    from launch.cluster.backends import is_driven
    from launch.cluster.logs import attempt_logs, follow_logs, newest_logs
    from launch.cluster.overview import scheduler_of

    if not is_driven(row.backend):
        return scheduler_of([row]).logs(row.job, rank, follow)
    if not follow:
        return attempt_logs(newest_logs(row.run_dir), rank)
    return follow_logs(
        lambda: newest_logs(row.run_dir), rank, lambda: attached.status(row).state.final, lambda: time.sleep(0.5)
    )


def _attempt(run_dir: Path, attempt: int) -> Path:
    from trainer.contract.attempts import attempts
    from trainer.contract.run_dir import RunDir

    known = attempts(run_dir)
    if attempt not in known:
        few = ", ".join(map(str, known)) or "none"
        raise UserError(f"{run_dir} has no attempt {attempt} (there are: {few})")
    return RunDir(run_dir).logs(attempt)


def _batch(row: Submitted) -> Iterator[str]:
    from launch.cluster.backends import is_driven
    from launch.cluster.overview import scheduler_of

    lines = None if is_driven(row.backend) else scheduler_of([row]).batch_lines(row.job)
    if lines is None:
        raise UserError(f"{row.backend} job {row.job} has no batch output in {row.identity.output or row.run_dir}")
    return lines
