"""Charts about a law of N and D: frontier, perplexity and residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array, robust_sd
from launch.scaling.fit.fit import Fitted
from launch.scaling.laws.optimum import log_optimal_n, loss_at
from launch.scaling.report.axes import NATS, PERPLEXITY, Scale, dot_size, legend_above, log_x, log_y
from launch.scaling.report.figures import BLUE, GREY, OFF, RED
from launch.scaling.report.hover import label, run_texts
from launch.scaling.table.table import Table
from launch.show.text import count

LENGTHS = (0.0, 0.5, 1.0)  # quantiles of D at which the law is drawn: no run lies beyond all lines
OUTLIER = 8  # robust standard deviations from which a run counts as far off the law


def frontier(ax: Any, table: Table, fitted: Fitted) -> None:
    """Loss against compute, coloured by size, with the best loss that the law allows at each budget."""
    spent = 6 * table.N * table.D  # as allocations count it
    flops = np.geomspace(spent.min(), spent.max() * 10, 60)
    best = np.array([_best_loss(fitted, fitted.theta[None], c)[0] for c in flops])
    sizes = Scale("N", table.N)
    sizes.scatter(ax, spent, table.loss, table.N)
    label(ax, spent, table.loss, run_texts(table, fitted.predict(fitted.columns)))
    ax.plot(flops, best, color="black", lw=1.4, label="frontier of the law", zorder=5)
    if fitted.draws is not None:
        some = fitted.draws[:200]
        losses = np.array([_best_loss(fitted, some, c) for c in flops[::3]])
        band = np.quantile(losses, [0.025, 0.975], axis=1)
        ax.fill_between(flops[::3], *band, color="black", alpha=0.15, lw=0, label="95 %")
    sizes.bar(ax)
    log_x(ax, "C", NATS)
    ax.set_xlabel("training FLOPs C = 6 N D")
    legend_above(ax)


def _best_loss(fitted: Fitted, theta: Array, flops: float) -> Array:
    log_n = log_optimal_n(fitted.law, theta, fitted.centre, flops)
    return np.exp(loss_at(fitted.law, theta, fitted.centre, log_n, flops))


def perplexity(ax: Any, table: Table, fitted: Fitted) -> None:
    """Perplexity against parameters, coloured by tokens, with the law at the least, the middle and the largest D."""
    grid = np.geomspace(table.N.min(), table.N.max() * 2, 80)
    tokens = Scale("D", table.D, "plasma")
    tokens.scatter(ax, table.N, np.exp(table.loss), table.D)
    label(ax, table.N, np.exp(table.loss), run_texts(table, fitted.predict(fitted.columns)))
    for D in np.unique(np.quantile(table.D, LENGTHS)):
        predicted = np.exp(fitted.predict({"N": grid, "D": np.full(len(grid), D)}))
        ax.plot(grid, predicted, color=tokens(D), lw=1.4, label=f"law at D = {count(float(D))}")
    tokens.bar(ax)
    log_x(ax, "N", PERPLEXITY)
    log_y(ax, np.exp(table.loss))
    legend_above(ax)


def far_off(fitted: Fitted) -> tuple[NDArray[np.bool_], float]:
    """Return which runs lie far off the law, and how far that is in log loss."""
    off, scale = np.abs(fitted.residuals), robust_sd(fitted.residuals)
    if scale < 1e-9:
        return np.zeros(len(off), bool), np.inf
    return off > OUTLIER * scale, OUTLIER * scale


def residuals(axes: Sequence[Any], table: Table, fitted: Fitted) -> None:
    """Measured minus law against N, D and C. Runs far off are triangles at the edge: they would hide a trend."""
    off = 100 * -fitted.residuals
    far, limit = far_off(fitted)
    edge = 100 * limit if far.any() else np.inf
    texts = run_texts(table, fitted.predict(fitted.columns))
    for ax, name in zip(axes, ("N", "D", "C"), strict=True):
        values = table.columns[name]
        ax.axhline(0, color=GREY, lw=0.8)
        label(ax, values[~far], off[~far], [text for text, odd in zip(texts, far, strict=True) if not odd])
        ax.plot(values[~far], off[~far], "o", ms=dot_size(len(table)), alpha=0.7, mew=0, color=BLUE)
        for side, marker in ((1, "^"), (-1, "v")):
            beyond = far & (side * off > 0)
            label(
                ax,
                values[beyond],
                np.full(beyond.sum(), side * edge * 0.96),
                [texts[i] for i in np.flatnonzero(beyond)],
            )
            ax.plot(values[beyond], np.full(beyond.sum(), side * edge * 0.96), marker, ms=5, color=RED)
        if np.isfinite(edge):
            ax.set_ylim(-edge, edge)
        log_x(ax, name, OFF)
