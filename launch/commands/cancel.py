"""`escala cancel`: end jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.commands.options import runs_option

if TYPE_CHECKING:
    from launch.cluster.registry import Submitted


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@runs_option
def cancel(jobs: tuple[str, ...], runs: Path) -> None:
    """End each JOB and all its processes: an id, a name, a run directory, or a sweep by its name or its array's id.

    Checkpoints stay. Of a sweep, the cells that wait or run are ended. A job is ended only when the scheduler's job of
    that id is still the one that was submitted.

    \b
    Examples:
      escala cancel 1234
      escala cancel runs/tiny
      escala cancel quickstart --runs /shared/runs
    """
    from launch.cluster import attached
    from launch.cluster.backends import is_driven
    from launch.cluster.job import JobState
    from launch.cluster.overview import scheduler_of, statuses_of
    from launch.cluster.registry import find_all
    from trainer.contract.errors import UserError

    problems = []
    for word in jobs:
        rows = find_all(runs, word)
        if len(rows) > 1:  # of a sweep, what has ended is no mistake
            states = statuses_of(rows)
            live = [row for row in rows if states[row.run_dir].state in (JobState.PENDING, JobState.RUNNING)]
            rows = live or rows[:1]
        for group in groups(rows):
            try:
                if is_driven(group[0].backend):
                    attached.cancel(group[0])
                else:
                    scheduler_of(group).cancel(*(row.job for row in group))
            except UserError as error:
                problems.append(f"{group[0].name}: {error}" if len(group) == 1 else str(error))
                continue
            for row in group:
                click.echo(f"cancelled {row.name} ({row.job})")
    if problems:
        raise UserError("; ".join(problems))


def groups(rows: list[Submitted]) -> list[list[Submitted]]:
    """Put together what one order of a scheduler ends: a sweep of a thousand cells is not asked for cell by cell."""
    from launch.cluster.backends import is_driven

    found: dict[object, list[Submitted]] = {}
    for row in rows:
        key = row.run_dir if is_driven(row.backend) else (row.cluster, str(row.settings))
        found.setdefault(key, []).append(row)
    return list(found.values())
