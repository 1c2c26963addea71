"""`escala fit`: a law, its intervals and its certificate from a table of runs."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from launch.commands.tables import parse_where, table_options
from launch.scaling.laws.registry import LAWS, find_law
from launch.scaling.mapping import parse_map
from launch.scaling.objective import Objective
from launch.scaling.study import Study, study
from launch.scaling.table import Table, load
from trainer.errors import UserError

EPILOG = """\b
Examples:
  escala fit runs/quickstart/ledger.jsonl --law power-N-floor
  escala fit table.csv --map N="Model Size",C="Training FLOP",loss=loss --drop-highest-loss 5
  escala fit table.csv --map N=params,D=tokens,loss="ln(ppl)" --bootstrap 4000 --json > fit.json
  escala optimal --fit fit.json --flops 1e21
"""


@click.command(epilog=EPILOG)
@table_options
@click.option("--law", default="chinchilla", show_default=True, help=f"One of: {', '.join(LAWS)}.")
@click.option("--drop-highest-loss", default=0, metavar="K", help="Leave out the K rows of highest loss.")
@click.option("--bootstrap", default=1000, show_default=True, help="Replicates for the intervals; 0: profiles.")
@click.option("--cluster", metavar="BY", help="Draw whole groups: N, D, C, or a label such as trunk, seed, group.")
@click.option("--seed", default=42, show_default=True, help="Seed of the bootstrap.")
@click.option("--delta", default=1e-3, show_default=True, help="Threshold of Huber's function; inf: least squares.")
@click.option("--residual", type=click.Choice(["log", "loss"]), default="log", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON to this file too.")
def fit(
    table: Path,
    mapping: str | None,
    where: tuple[str, ...],
    n_convention: str,
    drop_bad: bool,
    law: str,
    drop_highest_loss: int,
    bootstrap: int,
    cluster: str | None,
    seed: int,
    delta: float,
    residual: str,
    as_json: bool,
    out: Path | None,
) -> None:
    """Fit a scaling law to TABLE: a ledger, or any CSV, JSON lines or parquet file of runs.

    D follows from C = 6 N D when only two of the three are known. The answer comes with a certificate, and is
    refused where the runs cannot identify it.
    """
    chosen = find_law(law)
    runs = load(table, parse_map(mapping), n_convention, where=parse_where(where), drop_bad=drop_bad)
    runs = drop_highest(runs, drop_highest_loss)
    result = study(
        runs,
        chosen,
        cost=Objective(delta, residual),
        bootstrap=bootstrap,
        seed=seed,
        cluster=None if cluster is None else clusters(runs, cluster),
    )
    text = json.dumps(result.to_json())
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        click.echo(text)
    else:
        _print(result)


def drop_highest(table: Table, num: int) -> Table:
    """Leave out the rows of highest loss, the last of equal ones first."""
    if num < 0 or num >= len(table):
        raise UserError(f"--drop-highest-loss {num}: the table has {len(table)} rows")
    order = np.argsort(table.loss, kind="stable")
    return table.select(np.sort(order[: len(table) - num]))


def clusters(table: Table, by: str) -> np.ndarray:
    """Return a name for each row: its rounded N, D or C, or a label."""
    if by in table.columns:
        return np.round(np.log(table.columns[by]), 2).astype(str)
    if by not in table.labels:
        raise UserError(f"--cluster {by}: the table has {', '.join([*table.columns, *table.labels])}")
    return table.labels[by]


def _print(result: Study) -> None:
    from rich.console import Console

    from launch.scaling.report.console import study_text

    Console().print(study_text(result))
