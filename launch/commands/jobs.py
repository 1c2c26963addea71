"""`escala jobs`: every submitted run and how it stands."""

from __future__ import annotations

import json
from pathlib import Path

import click

from launch.commands.options import json_option, runs_option


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@runs_option
@click.option("--failed", is_flag=True, help="Only those that failed.")
@click.option("--running", is_flag=True, help="Only those that run or wait.")
@json_option
def jobs(jobs: tuple[str, ...], runs: Path, failed: bool, running: bool, as_json: bool) -> None:
    """List submitted runs, newest first: job, state, step, and for failed ones the rank and the reason.

    Each JOB is an id, a name, a directory, or a sweep by its name or its array's id; all without any. What cannot be
    asked, because its scheduler is away or its record damaged, is listed as unknown.

    \b
    Examples:
      escala jobs
      escala jobs quickstart
      escala jobs --failed --json | jq -r '.[].run_dir'
    """
    from launch.cluster.job import JobState
    from launch.cluster.overview import overview

    rows = overview(runs, jobs)
    if failed:
        rows = [row for row in rows if row.status.state is JobState.FAILED]
    if running:
        rows = [row for row in rows if not row.status.state.final]
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    _print(rows)


def _print(rows: list) -> None:
    from rich.table import Table
    from rich.text import Text

    from launch.show.console import make_console

    if not rows:
        click.echo("no submitted runs")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("job", "name", "where", "ranks", "state", "step", "reason"):
        table.add_column(column, overflow="fold" if column == "reason" else "ellipsis", no_wrap=column != "reason")
    colours = {"done": "green", "failed": "red", "running": "cyan"}
    for row in rows:
        state = row.status.state.value
        shown = Text(state, style=colours.get(state, ""))
        step = "" if row.step is None else str(row.step)
        job = row.submitted
        told = "; ".join(text for text in (row.status.reason, row.loss_of_progress) if text)
        table.add_row(job.job, job.name, job.cluster, str(job.world_size), shown, step, told)
    make_console().print(table)
