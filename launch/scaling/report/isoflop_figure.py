"""IsoFLOP curves: loss against size at equal compute, from runs at one budget or between the lengths of each size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted
from launch.scaling.laws.identify import distinct
from launch.scaling.laws.optimum import log_optimal_n, loss_at
from launch.scaling.other.isoflop import ONE_BUDGET, budgets
from launch.scaling.report.axes import NATS, Scale, legend_beside, log_x
from launch.scaling.report.figures import RED
from launch.scaling.report.hover import label
from launch.scaling.table.table import Table
from launch.show.text import count, flops_text

FEWEST_SIZES = 4  # of a curve that runs at one budget give
MOST_BUDGETS = 8
SAME_SIZE = 1e-3  # of the logarithm
INTERPOLATED_BUDGETS, FEWEST_BETWEEN = 5, 3


@dataclass(frozen=True)
class Curve:
    """One budget: the sizes that were run at it and their losses, measured or interpolated."""

    flops: float
    N: Array
    loss: Array
    measured: bool


def isoflop_curves(table: Table) -> list[Curve]:
    """Return up to eight budgets at which runs of at least four sizes were made, or five between the runs' lengths.

    Sizes that were trained for several lengths have a loss at every budget between: log loss is interpolated in
    log C. Empty where neither gives two budgets.
    """
    narrow = [r for r in budgets(table) if np.ptp(np.log(table.C[r])) <= ONE_BUDGET]
    rows = [r for r in narrow if distinct(table.N[r], FEWEST_SIZES) >= FEWEST_SIZES]
    if len(rows) >= 2:
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(MOST_BUDGETS, len(rows))).astype(int))
        return [
            Curve(float(np.median(table.C[r])), table.N[r], table.loss[r], measured=True)
            for r in (rows[i] for i in chosen)
        ]
    return _between(table)


def _between(table: Table) -> list[Curve]:
    """Interpolate the losses of each size at common budgets."""
    log_c, log_loss = np.log(6 * table.N * table.D), np.log(table.loss)
    order = np.argsort(table.N, kind="stable")
    by_size = np.split(order, np.flatnonzero(np.diff(np.log(table.N[order])) > SAME_SIZE) + 1)
    sizes = [rows[np.argsort(log_c[rows])] for rows in by_size if distinct(table.D[rows], 2) >= 2]
    if len(sizes) < FEWEST_BETWEEN:
        return []
    ends = np.array([[log_c[rows[0]], log_c[rows[-1]]] for rows in sizes])
    low, high = np.sort(ends[:, 0])[FEWEST_BETWEEN - 1], np.sort(ends[:, 1])[-FEWEST_BETWEEN]
    if low >= high:
        return []
    curves = []
    for at in np.linspace(low, high, INTERPOLATED_BUDGETS):
        covering = [rows for rows, (first, last) in zip(sizes, ends, strict=True) if first <= at <= last]
        if len(covering) >= FEWEST_BETWEEN:
            losses = [np.exp(np.interp(at, log_c[rows], log_loss[rows])) for rows in covering]
            N = np.array([table.N[rows[0]] for rows in covering])
            curves.append(Curve(float(np.exp(at)), N, np.array(losses), measured=False))
    return curves if len(curves) >= 2 else []


def isoflops(ax: Any, curves: list[Curve], fitted: Fitted, *, optima: bool = True) -> None:
    """Draw each budget with the law and, with `optima`, its best size. Interpolated losses are open circles."""
    colours = Scale("C", np.array([c.flops for c in curves]))
    for curve in curves:
        colour = colours(curve.flops)
        ax.plot(curve.N, curve.loss, "o", ms=4, color=colour, mfc=colour if curve.measured else "white", zorder=4)
        kind = "measured" if curve.measured else "interpolated"
        texts = [f"N {count(n)}, loss {v:.4f} at {flops_text(curve.flops)} FLOPs, {kind}"
                 for n, v in zip(curve.N.tolist(), curve.loss.tolist(), strict=True)]  # fmt: skip
        label(ax, curve.N, curve.loss, texts)
        grid = np.geomspace(curve.N.min() / 1.2, curve.N.max() * 1.2, 60)
        predicted = fitted.predict({"N": grid, "D": curve.flops / 6 / grid})
        ax.plot(grid, predicted, color=colour, lw=1.3, label=flops_text(curve.flops))
        if optima:
            _mark_best(ax, fitted, curve.flops, np.log(grid[[0, -1]]))
    log_x(ax, "N", NATS)
    legend_beside(ax, "FLOPs")


def _mark_best(ax: Any, fitted: Fitted, flops: float, within: Array) -> None:
    log_n = log_optimal_n(fitted.law, fitted.theta[None], fitted.centre, flops)
    if within[0] <= log_n[0] <= within[1]:
        best = loss_at(fitted.law, fitted.theta[None], fitted.centre, log_n, flops)
        ax.plot(np.exp(log_n), np.exp(best), "x", color=RED, ms=7, mew=1.8, zorder=6)
