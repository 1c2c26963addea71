"""`escala sweep design`: which runs to make for a budget, before any is made."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml

from launch.commands.forecast import Size
from launch.scaling.mapping import parse_map
from launch.scaling.report.model import count
from launch.scaling.saved import load_fit
from launch.scaling.table import load
from launch.sweep.design import COOLDOWN, FAMILIES, NOISE, PRIOR, PRIOR_NAME, Cell, Design, Question, propose
from launch.sweep.design_add import Addition, add_cells
from trainer.config.sizes import dimensions
from trainer.errors import UserError

EPILOG = """\b
Examples:
  escala sweep design --flops 1e19 --smallest 5M --largest 300M --target 1e21
  escala sweep design --flops 1e19 --smallest 5M --largest 300M --target 1e21 --out configs/sweep/mine.yaml
  escala sweep design --flops 3e12 --smallest 12k --largest 100k --target 3e13 --family grid --out ladder.yaml
  escala sweep design --add 3 --table runs/mine/ledger.jsonl --smallest 5M --largest 1B --target 1e21
"""
WARMUP = 0.1  # of the shortest run: trunks warm up alike, whatever their length


@click.command(epilog=EPILOG)
@click.option("--flops", type=float, help="Total budget of the sweep; with --add: of the most expensive new cell.")
@click.option("--smallest", type=Size(), required=True, help="Smallest N, such as 5M.")
@click.option("--largest", type=Size(), required=True, help="Largest N.")
@click.option("--target", type=float, required=True, help="The budget in FLOPs that the law has to predict.")
@click.option("--fit", "fit_path", type=click.Path(path_type=Path), help=f"Prior law; default {PRIOR_NAME}.")
@click.option("--noise", default=NOISE, show_default=True, help="Standard deviation of the log loss of one run.")
@click.option("--add", default=0, metavar="K", help="Propose the next K cells after those of --table.")
@click.option("--table", type=click.Path(path_type=Path), help="Ledger or table of the runs that exist.")
@click.option("--map", "mapping", metavar="N=COL,D=COL", help="Columns of --table.")
@click.option("--goal", type=click.Choice(["allocation", "loss"]), default="allocation", show_default=True)
@click.option("--family", type=click.Choice(list(FAMILIES)), help="Write this family, not the most telling one.")
@click.option("--slots", default=1, show_default=True, help="Ranks that run at a time, for the sweep file.")
@click.option("--run", default="tiny", show_default=True, help="Run that the sweep file's cells start from.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the best design, or the added cells, as a sweep.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
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
    as_json: bool,
) -> None:
    """Compare families of runs for a budget by what they would tell about the target.

    `--family trunks` writes a sweep that trains one trunk for each size and branches off a cooldown for each horizon.
    """
    law, source = _prior(fit_path)
    question = Question(target, law, noise)
    if add:
        if table is None:
            raise UserError("--add needs --table: the runs that exist")
        runs = load(table, parse_map(mapping))
        runs.require(("N", "D"), "design")
        limit = flops or float(10 * np.max(6 * runs.N * runs.D))
        added = add_cells(
            runs.N, runs.D, add, question, smallest=smallest, largest=largest, most_expensive=limit, goal=goal
        )
        _write(out, run, slots, [a.cell for a in added])
        _show_added(added, goal, as_json)
        return
    if flops is None:
        raise UserError("--flops is missing: the total budget of the sweep")
    designs = propose(flops, smallest, largest, question)
    if family is not None:
        designs.sort(key=lambda d: d.name != FAMILIES[family])
    _write(out, run, slots, designs[0].cells)
    if as_json:
        click.echo(json.dumps({"prior": {"source": source, **law}, "designs": [_design_json(d) for d in designs]}))
    else:
        _show(designs, source, target)


def _prior(fit_path: Path | None) -> tuple[dict[str, float], str]:
    if fit_path is None:
        return dict(PRIOR), PRIOR_NAME
    fit = load_fit(fit_path)
    if fit.law.name != "chinchilla":
        raise UserError(f"{fit_path}: a design's prior is a chinchilla law, not {fit.law.name!r}")
    values = fit.law.public(fit.theta[None], fit.centre)[0]
    return dict(zip(fit.law.params, map(float, values), strict=True)), str(fit_path)


def _show(designs: list[Design], source: str, target: float) -> None:
    from rich.console import Console

    from launch.scaling.report.console import grid_text
    from launch.scaling.report.model import Grid

    rows = [
        [d.name, str(len(d.cells)), f"{d.cost:.2e}", _sd(d.sd_log_n), _sd(d.sd_log_ratio), _sd(d.sd_loss, 1.0)]
        for d in designs
    ]
    header = ["design", "cells", "FLOPs", "sd ln N*", "sd ln D/N", "sd loss"]
    caption = f"Expected at {target:.2g} FLOPs if {source} holds."
    console = Console()
    console.print(grid_text(Grid(header, rows, caption), f"Designs; the cells below are those of {designs[0].name}"))
    for d in designs:
        if d.why_not:
            console.print(f"[yellow]{d.name}: {d.why_not}[/yellow]")
    best = designs[0]
    cells = [[count(c.N), count(c.D), f"{c.D / c.N:.3g}", f"{c.cost:.2e}", c.trunk] for c in best.cells]
    console.print(grid_text(Grid(["N", "D", "D/N", "FLOPs", "trunk"], cells), f"Cells of {best.name}"))


def _show_added(added: list[Addition], goal: str, as_json: bool) -> None:
    if as_json:
        cells = [{**_cell_json(a.cell), "sd_before": a.sd_before, "sd_after": a.sd_after} for a in added]
        click.echo(json.dumps({"goal": goal, "cells": cells}))
        return
    what = "ln N*" if goal == "allocation" else "the loss (nats)"
    for a in added:
        click.echo(
            f"N {count(a.cell.N):>6}  D {count(a.cell.D):>6}  D/N {a.cell.D / a.cell.N:<6.3g} {a.cell.cost:.2e} FLOPs: "
            f"sd of {what} at the target {_sd(a.sd_before)} -> {_sd(a.sd_after)}"
        )


def _write(out: Path | None, run: str, slots: int, cells: Any) -> None:
    """Write cells as a sweep file. Sizes are body parameters of the ladder, tokens whole thousands."""
    if out is None:
        return
    entries = [{"model.size": _ladder_size(c.N), "tokens": max(1000, round(c.D / 1000) * 1000)} for c in cells]
    shared: dict[str, Any] = {"run": run}
    if any(c.trunk for c in cells):
        warmup = max(1000, round(WARMUP * min(e["tokens"] for e in entries) / 1000) * 1000)
        schedule = {"kind": "wsd", "warmup": f"{warmup} tokens", "decay": f"{COOLDOWN:.0%}"}
        shared = {"run": {"base": run, "schedule": schedule}, "trunks": True}
    text = yaml.safe_dump({"name": out.stem, "slots": slots, **shared, "cells": entries}, sort_keys=False)
    out.write_text(text, encoding="utf-8")
    click.echo(f"{len(entries)} cells written to {out}", err=True)


def _ladder_size(N: float) -> str:
    try:
        return str(dimensions(round(N)).body_params)
    except ValueError as error:
        raise UserError(f"a cell of {count(N)} parameters: {error}") from None


def _sd(value: float, unknown: float = 10.0) -> str:
    return f"{value:.4f}" if value < unknown else "cannot tell"


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {"N": cell.N, "D": cell.D, "flops": cell.cost, "trunk": cell.trunk or None}


def _design_json(d: Design) -> dict[str, Any]:
    return {
        "name": d.name,
        "flops": d.cost,
        "sd_log_n": d.sd_log_n if math.isfinite(d.sd_log_n) else None,
        "sd_log_ratio": d.sd_log_ratio if math.isfinite(d.sd_log_ratio) else None,
        "sd_loss": d.sd_loss,
        "why_not": d.why_not or None,
        "cells": [_cell_json(c) for c in d.cells],
    }
