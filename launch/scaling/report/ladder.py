"""The sections of a report about one ladder of sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from launch.scaling.laws.identify import distinct, log_spread
from launch.scaling.other.ladder import Forecast, Ladder, LadderLaw
from launch.scaling.report import figures
from launch.scaling.report.cells import UNIT, cell_grid, counting_after, size_text
from launch.scaling.report.checklist import Answers
from launch.scaling.report.decisions import parameter_text
from launch.scaling.report.model import Figure, Grid, Section, interval
from launch.scaling.report.trust import hold_out_section, profile_figure
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import BOOTSTRAP, SEED, residual_sd
from launch.scaling.trust.certify import certify
from launch.scaling.trust.holdout import LADDERS, hold_out
from launch.scaling.trust.study import study
from launch.show.text import count

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def headline(ladder: Ladder) -> list[str]:
    """Say what was forecast, what came, and what cannot be said."""
    table, variable = ladder.table, ladder.variable
    span = (
        f"{size_text(variable, table.columns[variable].min())} to {size_text(variable, table.columns[variable].max())}"
    )
    lines = [f"{len(table)} cells from {span} {UNIT[variable]}{_at_fixed(table, variable)}."]
    lines += [_forecast_sentence(ladder.preferred, f) for f in ladder.preferred.forecasts]
    for law in ladder.laws:
        if law is not ladder.preferred:
            lines += [f"{law.fitted.law.formula} would have said {np.exp(f.predicted):.2f}." for f in law.forecasts]
    if not ladder.preferred.forecasts:
        lines.append("No cell was held out: there are too few sizes to spare one, so nothing tests the law.")
    return lines


def _forecast_sentence(law: LadderLaw, f: Forecast) -> str:
    text = (
        f"Held out: {f.name}. {law.fitted.law.formula} fitted to the smaller cells forecast a perplexity of "
        f"{np.exp(f.predicted):.2f}"
    )
    if f.interval is not None:
        text += f" (95 % {interval(float(np.exp(f.interval[0])), float(np.exp(f.interval[1])), '.2f')})"
    text += f"; measured {np.exp(f.measured):.2f}. The loss was off by {f.error:+.2%}"
    if f.inside is not None:
        text += ", inside the interval." if f.inside else ", OUTSIDE the interval."
    return text


def ladder_sections(ladder: Ladder) -> list[Section]:
    """Return the sections in reading order; those without data are left out."""
    sections = [_main(ladder), _cells(ladder)]
    if ladder.cannot:
        sections.append(Section("What these runs cannot tell", ladder.cannot))
    if held := hold_out(ladder.table, LADDERS[ladder.variable]):
        sections.append(hold_out_section(held))
    sections += [_certificate(ladder), _residuals(ladder)]
    if any(ladder.table.by_position):
        sections.append(by_position_section(ladder.table))
    return sections


def ladder_answers(ladder: Ladder) -> Answers:
    """Return what the checklist asks of the fit."""
    law = ladder.preferred
    fitted = law.fitted
    validated = "not: there are too few sizes to hold one out"
    if law.forecasts:
        errors = ", ".join(f"{f.error:+.2%}" for f in law.forecasts)
        validated = f"the largest size is held out and forecast: loss off by {errors}"
    return Answers(
        formula=fitted.law.formula,
        source=fitted.law.source,
        parameters=", ".join(fitted.law.params),
        objective="least squares of log loss, damped Newton with analytic derivatives",
        starts=f"a grid of exponents by variable projection; {fitted.share_of_starts:.0%} meet in the optimum",
        intervals="95 % by a parametric bootstrap" if law.intervals else "not known: no degree of freedom is left",
        held_out=validated,
    )


def _main(ladder: Ladder) -> Section:
    variable = ladder.variable
    counted = counting_after(ladder.table)
    main = Figure(
        "perplexity_against_" + {"N": "parameters", "D": "tokens", "C": "compute"}[variable],
        f"Perplexity against {UNIT[variable]}. Filled: fitted. Open: held out. Band: 95 % for one new run under "
        f"{ladder.preferred.name}.{counted}",
        lambda ax: figures.ladder(ax, ladder),
    )
    charts = [main]
    if ladder.table.has("C") and variable != "C":
        charts.append(
            Figure(
                "loss_against_compute",
                f"Loss against training compute ({_flops_name(ladder.table)}).",
                lambda ax: figures.compute(ax, ladder.table, ladder.held_out),
            )
        )
    return Section("The law", [], charts, [law_grid(ladder), *forecast_grids(ladder)])


def law_grid(ladder: Ladder) -> Grid:
    """Return the parameters of each law through all cells, as `escala fit --law NAME` gives them, a row each."""
    rows = []
    for law in ladder.laws:
        whole = study(ladder.table, law.fitted.law, bootstrap=BOOTSTRAP, seed=SEED)
        intervals, fitted = whole.intervals(), whole.fitted
        assert fitted is not None  # fewer cells gave one
        sd = residual_sd(fitted, ladder.table.columns.get("sem"))
        spread = f"{sd:.2%}" if np.isfinite(sd) else "none"
        for name, value in fitted.values.items():
            shown = interval(*intervals[name], ".4g") if name in intervals else "none"
            rows.append([law.fitted.law.formula, name, parameter_text(name, value), shown, spread])
    held = " Forecasts come from fits to the others." if ladder.held_out.any() else ""
    return Grid(
        ["law", "parameter", "value", "95 %", "residual sd"],
        rows,
        f"Through all {len(ladder.table)} cells, as escala fit --law gives them.{counting_after(ladder.table)}{held}",
    )


def forecast_grids(ladder: Ladder) -> list[Grid]:
    """Return one table with the forecast of every law for each held-out cell."""
    rows = []
    for law in ladder.laws:
        for f in law.forecasts:
            shown = (
                "none"
                if f.interval is None
                else interval(float(np.exp(f.interval[0])), float(np.exp(f.interval[1])), ".2f")
            )
            inside = "-" if f.inside is None else ("yes" if f.inside else "NO")
            rows.append(
                [law.fitted.law.formula, f.name, f"{np.exp(f.predicted):.2f}", shown,
                 f"{np.exp(f.measured):.2f}", f"{f.error:+.2%}", inside]
            )  # fmt: skip
    header = ["law", "held-out cell", "forecast ppl", "95 %", "measured ppl", "loss error", "inside"]
    return [Grid(header, rows, "Forecasts of cells that the fit did not see.")] if rows else []


def _cells(ladder: Ladder) -> Section:
    return Section("The cells", [], [], [cell_grid(ladder)])


def _certificate(ladder: Ladder) -> Section:
    fitted = ladder.preferred.fitted
    certificate = certify(fitted)
    text = [f"{fitted.law.formula}, fitted to the {len(fitted.loss)} smaller cells: {certificate.status}."]
    text += list(certificate.reasons)
    freedom = len(fitted.loss) - fitted.num_params
    charts = [profile_figure(certificate, freedom, fitted.law.positive)] if certificate.profiles and freedom else []
    return Section("Certificate", text, charts)


def _residuals(ladder: Ladder) -> Section:
    table = ladder.table
    names = [n for n in ("N", "D", "C") if n == ladder.variable or (table.has(n) and distinct(table.columns[n], 2) > 1)]
    chart = Figure(
        "residuals",
        "Residuals of the log loss of both laws: measured minus law, in percent. Open: held out.",
        lambda axes: figures.ladder_residuals(axes, ladder, names),
        panels=names,
    )
    notes = []
    seeds = table.labels.get("seed")
    if seeds is not None and len(set(seeds)) == 1:
        notes.append("One seed: the spread over seeds is not measured, so intervals rest on the scatter about the law.")
    return Section("Residuals", notes, [chart])


def by_position_section(table: Table) -> Section:
    """Return the chart of loss by position."""
    chart = Figure(
        "loss_by_position",
        "Loss by position in the context, a line a cell: how much longer contexts help each size.",
        lambda ax: figures.by_position(ax, table),
    )
    return Section("Loss by position", [], [chart])


def layout_section(curves: Curves) -> Section:
    """Return the comparison of one cell's training under several layouts."""
    names = list(curves)
    difference = layout_difference(curves)
    text = (
        f"The same cell was trained under {' and '.join(names)}. The largest difference of the training loss at any "
        f"common step is {difference:.2e} nats."
    )
    chart = Figure(
        "layout_check",
        "Training loss of one cell under different layouts.",
        lambda ax: figures.layouts(ax, curves),
    )
    return Section("The same mathematics at any layout", [text], [chart])


def layout_difference(curves: Curves) -> float:
    """Return the largest difference of losses over the steps that all curves have."""
    lookups: list[dict[Any, float]] = [dict(zip(s, loss, strict=True)) for s, loss in curves.values()]
    common = sorted(set.intersection(*(set(lookup) for lookup in lookups)))
    if not common:
        return float("nan")
    values = np.array([[lookup[s] for s in common] for lookup in lookups])
    return float(np.max(values.max(axis=0) - values.min(axis=0)))


def _at_fixed(table: Table, variable: str) -> str:
    if variable == "N" and table.has("D") and log_spread(table.D) < 0.05:
        return f", each trained on {count(float(np.median(table.D)))} tokens"
    if variable == "N" and table.has("N", "D") and log_spread(table.D / table.N) < 0.05:
        return f", each trained on {float(np.median(table.D / table.N)):.3g} tokens per parameter"
    return ""


def _flops_name(table: Table) -> str:
    return "counted exactly, with attention" if table.c_convention == "exact" else "6 N D"
