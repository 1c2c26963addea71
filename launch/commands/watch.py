"""`escala watch`: a live table of runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from launch.commands.options import json_option, runs_option

SORTS = ("state", "name", "step", "loss", "speed", "mfu", "left", "cost")
STATES = ("failed", "dead", "diverged", "unknown", "running", "preempted", "pending", "waiting", "done")


@click.command()
@click.argument("names", nargs=-1, metavar="[RUN|SWEEP|DIR]...")
@click.option("--sort", type=click.Choice(SORTS), default="state", show_default=True, help="Those with trouble first.")
@click.option("--state", type=click.Choice(STATES), help="Only the runs of one state.")
@click.option("--every", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Print the table once.")
@json_option
@runs_option
def watch(
    names: tuple[str, ...], sort: str, state: str | None, every: float, once: bool, as_json: bool, runs: Path
) -> None:
    """Show runs while they train: state, step, loss, tokens per second, MFU, time left, loss curve.

    Runs of all backends are shown alike, from the files in their directories; without a name, all runs. The table is
    printed once with --json and without a terminal. Keys: q quits, s sorts, f filters by state, j and k scroll.

    \b
    Examples:
      escala watch
      escala watch quickstart --sort loss
      escala watch --once --json | jq -r '.[] | select(.state == "failed") | .run_dir'
    """
    from launch.show.console import make_console
    from launch.watch.find_runs import find_runs
    from launch.watch.run_table import Selection, headline, run_table
    from launch.watch.run_view import Reader

    reader, selection, console = Reader(find_runs(runs, names)), Selection(sort, state), make_console()
    if not as_json and not once and console.is_terminal and sys.stdin.isatty() and reader.runs:
        from launch.watch.live import live

        live(reader, console, selection, every)
        return
    views = reader.views()
    shown = selection.of(views)
    if as_json:
        click.echo(json.dumps([view.to_json() for view in shown], indent=2))
    elif not views:
        click.echo("no runs")
    else:
        console.print(headline(views, len(shown), selection))
        console.print(run_table(shown, console.width))
