"""`escala report`: one HTML file, Markdown and PNGs about a table of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from launch.commands.options import json_option
from launch.commands.question import question
from launch.commands.tables import drop_highest, drop_highest_option, parse_where, table_options
from launch.scaling.fit.large import LOG
from launch.scaling.other.changes import changes_of, is_of_changes
from launch.scaling.report import ReportPaths, write
from launch.scaling.report.changes import changes_report
from launch.scaling.report.write import render
from launch.scaling.table.load import load
from launch.scaling.table.mapping import parse_map
from launch.scaling.table.reading import read_rows, without_tuning
from launch.scaling.table.rows import RowsAre
from launch.show.progress import shown
from trainer.contract.plain_text import plain

EPILOG = """\b
Examples:
  escala report runs/quickstart/ledger.jsonl
  escala report table.csv --map N=params,D=tokens,loss=loss --out report --title "Our ladder"
"""


@click.command(epilog=EPILOG)
@table_options
@drop_highest_option
@click.option("--out", default=Path("report"), show_default=True, type=click.Path(path_type=Path), help="Directory.")
@click.option("--title", default=None, help="Default: by the name of the table.")
@click.option("--forecasts", type=click.Path(path_type=Path), help="A forecast ledger to include.")
@click.option("--context", type=click.Path(path_type=Path), help="JSON of benchmarks.context: speed by context.")
@json_option
def report(
    table: Path,
    mapping: str | None,
    where: tuple[str, ...],
    n_convention: str,
    drop_bad: bool,
    rows_are: RowsAre,
    drop_highest_loss: int,
    out: Path,
    title: str | None,
    forecasts: Path | None,
    context: Path | None,
    as_json: bool,
) -> None:
    """Write what TABLE tells into OUT/report.html (self-contained), OUT/report.md and PNGs."""
    click.get_current_context().with_resource(shown(LOG))
    rows = [] if mapping or where else without_tuning(read_rows(table).rows)
    if is_of_changes(rows):
        found = changes_report(changes_of(rows), title or f"Changes one at a time: {_name(table)}")
        _tell(render(found, out), {}, as_json)
        return
    runs = load(table, parse_map(mapping), n_convention, where=parse_where(where), drop_bad=drop_bad, rows_are=rows_are)
    runs = drop_highest(runs, drop_highest_loss)
    for warning in runs.warnings:
        click.secho(plain(f"warning: {warning}"), fg="yellow", err=True)
    asked = question(runs)
    title = title or f"Scaling report: {_name(table)}"
    _tell(write(runs, out, title=title, forecasts=forecasts, question=asked, context=context), asked, as_json)


def _tell(paths: ReportPaths, asked: dict[str, Any], as_json: bool) -> None:
    if as_json:
        found: dict[str, Any] = {"question": asked} if asked else {}
        found |= {"html": str(paths.html), "markdown": str(paths.markdown), "figures": [str(f) for f in paths.figures]}
        click.echo(json.dumps(found))
    else:
        size = f"{paths.html.stat().st_size / 1024:.0f} KiB, works offline"
        click.echo(f"{paths.html} ({size}), {paths.markdown} and {len(paths.figures)} PNG files beside them")


def _name(table: Path) -> str:
    """Return the name of a table, or of the sweep whose ledger it is."""
    return table.resolve().parent.name if table.name == "ledger.jsonl" else table.stem
