"""`escala sweep design`: which runs to make for a budget, before any is made."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from launch.commands.options import Positive, Size, json_option, n_convention_option, refuse_idle
from launch.scaling.questions.saved_fit import load_fit
from launch.scaling.table.counting import N_CONVENTIONS, counting_text
from launch.scaling.table.load import load
from launch.scaling.table.mapping import parse_map
from launch.show.console import make_console
from launch.show.text import count, flops_text
from launch.sweep.design.counting import Counting, counting_of
from launch.sweep.design.design import FAMILIES, NOISE, PRIOR, PRIOR_NAME, Cell, Design, Question, propose
from launch.sweep.design.design_add import Addition, add_cells
from launch.sweep.design.design_file import add_to_sweep, describe, write_sweep
from launch.sweep.design.pending import first_run
from trainer.config.load import load_run
from trainer.contract.errors import UserError
from trainer.contract.plain_text import plain

EPILOG = """\b
Examples:
  escala sweep design --flops 1e19 --smallest 5M --largest 300M --target 1e21
  escala sweep design --flops 1e19 --smallest 5M --largest 300M --target 1e21 --out configs/sweep/mine.yaml
  escala sweep design --flops 3e12 --smallest 12k --largest 100k --target 3e13 --family grid --out ladder.yaml
  escala sweep design --add 3 --table runs/mine/ledger.jsonl --smallest 5M --largest 1B --target 1e21
"""


@click.command(epilog=EPILOG)
@click.option("--flops", type=Positive(), help="Total budget of the sweep; with --add: of the most expensive new cell.")
@click.option("--smallest", type=Size(), required=True, help="Smallest model.size, such as 5M.")
@click.option("--largest", type=Size(), required=True, help="Largest model.size.")
@click.option("--target", type=Positive(), required=True, help="The budget in FLOPs that the law has to predict.")
@click.option("--fit", "fit_path", type=click.Path(path_type=Path), help=f"Prior law; default {PRIOR_NAME}.")
@click.option(
    "--noise", type=Positive(), default=NOISE, show_default=True, help="Standard deviation of the log loss of one run."
)
@click.option(
    "--add", type=click.IntRange(min=0), default=0, metavar="K", help="Propose the next K cells after those of --table."
)
@click.option("--table", type=click.Path(path_type=Path), help="Ledger or table of the runs that exist.")
@click.option("--map", "mapping", metavar="N=COL,D=COL", help="Columns of --table.")
@click.option("--goal", type=click.Choice(["allocation", "loss"]), default="allocation", show_default=True)
@click.option("--family", type=click.Choice(list(FAMILIES)), help="Write this family, not the most telling one.")
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Ranks that run at a time, for the sweep file.",
)
@click.option("--run", default="tiny", show_default=True, help="Run that the sweep file's cells start from.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the best design as a sweep file. With --add, a file that exists keeps its cells and gets the new ones.",
)
@n_convention_option
@json_option
def design(
    flops: float | None,
    smallest: float,
    largest: float,
    target: float,
    fit_path: Path | None,
    noise: float,
    add: int,
    table: Path | None,
    mapping: str | None,
    goal: Any,
    family: str | None,
    slots: int,
    run: str,
    out: Path | None,
    n_convention: str,
    as_json: bool,
) -> None:
    """Compare families of runs for a budget by what they would tell about the target.

    `--family trunks` writes a sweep that trains one trunk for each size and branches off a cooldown for each horizon.
    """
    _refuse_idle_options(adding=add > 0, out=out)
    law, source = _prior(fit_path, n_convention)
    into = out is not None and out.exists() and add > 0
    counting = counting_of(first_run(out) if into and out is not None else load_run(Path(run)), n_convention)
    smallest, largest = counting.parameters(smallest), counting.parameters(largest)
    question = Question(target, law, noise)
    if add:
        if table is None:
            raise UserError("--add needs --table: the runs that exist")
        runs = load(table, parse_map(mapping), n_convention)
        runs.require(("N", "D"), "design")
        for warning in runs.warnings:
            click.secho(plain(f"warning: {warning}"), fg="yellow", err=True)
        limit = flops or float(10 * np.max(6 * runs.N * runs.D))
        added = add_cells(
            runs.N, runs.D, add, question, smallest=smallest, largest=largest, most_expensive=limit, goal=goal
        )
        _put(out, run, slots, [a.cell for a in added], counting, into=into)
        _show_added(added, goal, n_convention, as_json)
        return
    if flops is None:
        raise UserError("--flops is missing: the total budget of the sweep")
    designs = propose(flops, smallest, largest, question)
    if family is not None:
        designs.sort(key=lambda d: d.name != FAMILIES[family])
    _put(out, run, slots, designs[0].cells, counting)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "prior": {"source": source, **law},
                    "n_convention": n_convention,
                    "designs": [_design_json(d) for d in designs],
                }
            )
        )
    else:
        _show(designs, source, target, n_convention)


def _refuse_idle_options(*, adding: bool, out: Path | None) -> None:
    """Raise `UserError` for options that were given and have no effect beside the others."""
    if adding:
        refuse_idle(["family"], "with --add")
    else:
        refuse_idle(["table", "mapping", "goal"], "without --add")
    if out is None:
        refuse_idle(["slots"], "without --out")
    elif adding and out.exists():
        refuse_idle(["slots", "run"], f"on {out}, which exists")


def _prior(fit_path: Path | None, n_convention: str) -> tuple[dict[str, float], str]:
    if fit_path is None:
        return dict(PRIOR), PRIOR_NAME
    fit = load_fit(fit_path)
    if fit.law.name != "chinchilla":
        raise UserError(f"{fit_path}: a design's prior is a chinchilla law, not {fit.law.name!r}")
    if fit.convention in N_CONVENTIONS and fit.convention != n_convention:
        raise UserError(
            f"{fit_path}: its N counts {N_CONVENTIONS[fit.convention]}, and that of the design "
            f"{N_CONVENTIONS[n_convention]}: give --n-convention {fit.convention}"
        )
    values = fit.law.public(fit.theta[None], fit.centre)[0]
    return dict(zip(fit.law.params, map(float, values), strict=True)), str(fit_path)


def _put(
    out: Path | None, run: str, slots: int, cells: Sequence[Cell], counting: Counting, *, into: bool = False
) -> None:
    """Write the cells as a sweep file, or into one; what it holds then goes to standard error, beside --json."""
    if out is None:
        return
    if into:
        add_to_sweep(out, cells, counting)
    else:
        write_sweep(out, run, slots, cells, counting)
    for line in describe(out):
        click.echo(line, err=True)


def _show(designs: list[Design], source: str, target: float, n_convention: str) -> None:
    from launch.scaling.report.console import grid_text
    from launch.scaling.report.model import Grid

    rows = [
        [d.name, str(len(d.cells)), flops_text(d.cost, 3), _sd(d.sd_log_n), _sd(d.sd_log_ratio), _sd(d.sd_loss, 1.0)]
        for d in designs
    ]
    header = ["design", "cells", "FLOPs", "sd ln N*", "sd ln D*/N*", "sd loss (nats)"]
    caption = (
        f"What each would tell about the best run for {flops_text(target)} FLOPs if {source} holds: expected standard "
        f"deviations (0.1 of ln N* is 10 % of N*). {counting_text(n_convention)}."
    )
    console = make_console()
    console.print(grid_text(Grid(header, rows, caption), f"Designs; the cells below are those of {designs[0].name}"))
    for d in designs:
        if d.why_not:
            console.print(f"{d.name}: {d.why_not}", style="yellow", highlight=False)
    best = designs[0]
    cells = [[count(c.N), count(c.D), f"{c.D / c.N:.3g}", flops_text(c.cost, 3), c.trunk] for c in best.cells]
    header = ["N", "D", "D/N", "FLOPs added", "trunk"]
    shown = len(header) if any(c.trunk for c in best.cells) else len(header) - 1
    console.print(grid_text(Grid(header[:shown], [row[:shown] for row in cells]), f"Cells of {best.name}"))


def _show_added(added: list[Addition], goal: str, n_convention: str, as_json: bool) -> None:
    if as_json:
        cells = [{**_cell_json(a.cell), "sd_before": a.sd_before, "sd_after": a.sd_after} for a in added]
        click.echo(json.dumps({"goal": goal, "n_convention": n_convention, "cells": cells}))
        return
    click.echo(counting_text(n_convention))
    what = "ln N*" if goal == "allocation" else "the loss (nats)"
    for a in added:
        click.echo(
            f"N {count(a.cell.N):>6}  D {count(a.cell.D):>6}  D/N {a.cell.D / a.cell.N:<6.3g} "
            f"{flops_text(a.cell.cost, 3)} FLOPs: "
            f"sd of {what} at the target {_sd(a.sd_before)} -> {_sd(a.sd_after)}"
        )


def _sd(value: float, unknown: float = 10.0) -> str:
    return f"{value:.4f}" if value < unknown else "cannot tell"


def _cell_json(cell: Cell) -> dict[str, object]:
    return {"N": cell.N, "D": cell.D, "flops": cell.cost, "trunk": cell.trunk or None}


def _design_json(d: Design) -> dict[str, object]:
    return {
        "name": d.name,
        "flops": d.cost,
        "sd_log_n": d.sd_log_n if math.isfinite(d.sd_log_n) else None,
        "sd_log_ratio": d.sd_log_ratio if math.isfinite(d.sd_log_ratio) else None,
        "sd_loss": d.sd_loss,
        "why_not": d.why_not or None,
        "cells": [_cell_json(c) for c in d.cells],
    }
