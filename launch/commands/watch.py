"""`escala watch`: a live table of runs, or a page about them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.commands.options import json_option, refuse_idle, runs_option

if TYPE_CHECKING:
    from launch.watch.page import Page

PORT = 8710
SORTS = ("state", "name", "step", "loss", "off", "speed", "mfu", "left", "cost")
STATES = ("failed", "dead", "diverged", "unknown", "running", "preempted", "pending", "waiting", "done")


@click.command()
@click.argument("names", nargs=-1, metavar="[RUN|SWEEP|DIR]...")
@click.option("--sort", type=click.Choice(SORTS), default="state", show_default=True, help="Those with trouble first.")
@click.option("--state", type=click.Choice(STATES), help="Only the runs of one state.")
@click.option("--every", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Print the table, or write the page, once.")
@json_option
@click.option("--html", type=click.Path(path_type=Path, file_okay=False), help="Keep a page in this directory.")
@click.option(
    "--serve",
    type=click.IntRange(0, 65535),
    is_flag=False,
    flag_value=PORT,
    metavar="[PORT]",
    help=f"Serve the page to this machine alone, by default on port {PORT}; 0 takes any.",
)
@runs_option
def watch(
    names: tuple[str, ...],
    sort: str,
    state: str | None,
    every: float,
    once: bool,
    as_json: bool,
    html: Path | None,
    serve: int | None,
    runs: Path,
) -> None:
    """Show runs while they train: state, step, loss, tokens per second, MFU, time left, loss curve.

    Runs of all backends are shown alike, from the files in their directories; without a name, all runs. The table is
    printed once with --json and without a terminal. In a terminal, Enter opens the run that j and k point at.

    --html writes DIR/index.html, which shows curves, law and states without a network and refreshes itself. --serve
    has the same page at an address of this machine. Both go on until Ctrl-C.

    \b
    Examples:
      escala watch
      escala watch quickstart --sort loss
      escala watch --once --json | jq -r '.[] | select(.state == "failed") | .run_dir'
      escala watch quickstart --html page
      escala watch quickstart --serve
    """
    from launch.watch.find_runs import find_runs

    def find() -> list[Path]:
        return find_runs(runs, names)

    if html is not None or serve is not None:
        refuse_idle(("sort", "state", "as_json"), "on a page, which sorts and filters by itself")
        if html is not None:
            refuse_idle(("serve",), "with --html")
            _write(find, ", ".join(names) or str(runs), html, every, once=once)
        elif serve is not None:
            refuse_idle(("once",), "with --serve")
            _serve(find, ", ".join(names) or str(runs), serve, every)
        return
    _table(find, sort, state, every, once=once, as_json=as_json)


def _table(
    find: Callable[[], list[Path]], sort: str, state: str | None, every: float, *, once: bool, as_json: bool
) -> None:
    from launch.show.console import make_console
    from launch.watch.run_table import headline, run_table
    from launch.watch.run_view import Reader
    from launch.watch.selection import Selection

    reader, selection, console = Reader(find), Selection(sort, state), make_console()
    if not as_json and not once and console.is_terminal and sys.stdin.isatty():
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


def _page(find: Callable[[], list[Path]], title: str, every: float) -> Page:
    from launch.watch.page import Page, points_of_a_run
    from launch.watch.run_view import Reader

    return Page(Reader(find, points_of_a_run(len(find())), early=True), title, every)


def _write(find: Callable[[], list[Path]], title: str, directory: Path, every: float, *, once: bool) -> None:
    from launch.show.text import size
    from launch.watch.page import keep_writing, write_page

    page = _page(find, title, every)
    path = write_page(page, directory, wait=once)
    click.echo(f"{path} ({size(path.stat().st_size)}, works without a network)")
    if not once:
        click.echo("kept up to date until Ctrl-C")
        keep_writing(page, directory)


def _serve(find: Callable[[], list[Path]], title: str, port: int, every: float) -> None:
    from launch.watch.page_server import PageServer

    with PageServer(_page(find, title, every), port) as server:
        click.echo(
            f"{server.url} until Ctrl-C; from elsewhere: ssh -L {server.server_port}:127.0.0.1:{server.server_port}"
        )
        server.serve_forever()
