"""What every command that reads a table of runs offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from launch.commands.options import n_convention_option
from launch.scaling.table.checks import rows_text
from launch.scaling.table.rows import ROWS_ARE
from launch.scaling.table.table import Table
from trainer.contract.errors import UserError

Command = Callable[..., Any]


def table_options(command: Command) -> Command:
    """Add TABLE, --map, --where, --n-convention, --drop-bad and --rows."""
    options = [
        click.argument("table", type=click.Path(path_type=Path)),
        click.option("--map", "mapping", metavar="N=COL,D=COL,loss=COL", help="Columns; COL*1e6, ln(COL) convert."),
        click.option("--where", multiple=True, metavar="COL=VALUE", help="Keep these rows only; repeatable."),
        n_convention_option,
        click.option("--drop-bad", is_flag=True, help="Leave out rows with missing or impossible numbers."),
        click.option(
            "--rows",
            "rows_are",
            type=click.Choice(ROWS_ARE),
            default="auto",
            show_default=True,
            help="auto: the end of each run, the best trial of each cell, none that diverged; last: rows of one run "
            "are its checkpoints; all: fit every row.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


drop_highest_option = click.option(
    "--drop-highest-loss",
    type=click.IntRange(min=0),
    default=0,
    metavar="K",
    help="Leave out the K rows of highest loss.",
)


def parse_where(conditions: tuple[str, ...]) -> dict[str, str]:
    """Split COL=VALUE conditions. Raises `UserError`."""
    found = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where wants COLUMN=VALUE, not {condition!r}")
        found[column.strip()] = value.strip()
    return found


def drop_highest(table: Table, num: int) -> Table:
    """Leave out the rows of highest loss, the last of equal ones first."""
    if num >= len(table):
        raise UserError(f"--drop-highest-loss {num}: the table has {len(table)} rows")
    if not num:
        return table
    order = np.argsort(table.loss, kind="stable")
    dropped = rows_text(np.sort(table.row[order[len(table) - num :]]))
    kept = table.select(np.sort(order[: len(table) - num]))
    return replace(kept, left_out=(*kept.left_out, f"{dropped}, by --drop-highest-loss {num}"))
