"""Charts about a law of N and D: frontier, IsoFLOP curves, residuals, hold-out errors and profiles."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from launch.scaling.allocate import log_optimal_n, loss_at
from launch.scaling.certify import Certificate
from launch.scaling.fit import Fitted
from launch.scaling.holdout import HoldOut
from launch.scaling.isoflop import budgets
from launch.scaling.objective import Array
from launch.scaling.profile import student_95
from launch.scaling.report.figures import BLUE, GREY, LABEL, PALETTE, RED, log_axes, plain
from launch.scaling.table import Table

MOST_BUDGETS = 8


def frontier(ax: Any, table: Table, fitted: Fitted) -> None:
    """Loss against compute, coloured by size, with the best loss that the law allows at each budget."""
    flops = np.geomspace(table.C.min(), table.C.max() * 10, 60)
    best = np.array([_best_loss(fitted, fitted.theta[None], c)[0] for c in flops])
    points = ax.scatter(table.C, table.loss, c=np.log10(table.N), cmap="viridis", s=16, zorder=4)
    if fitted.draws is not None:
        some = fitted.draws[:200]
        losses = np.array([_best_loss(fitted, some, c) for c in flops[::3]])
        ax.fill_between(flops[::3], *np.quantile(losses, [0.025, 0.975], axis=1), color=BLUE, alpha=0.2, lw=0)
    ax.plot(flops, best, color=BLUE, lw=1.8, label="frontier of the law")
    ax.figure.colorbar(points, ax=ax, label="log10 N")
    log_axes(ax, LABEL["C"], "validation loss (nats per token)", y_log=False)
    ax.legend(frameon=False)


def _best_loss(fitted: Fitted, theta: Array, flops: float) -> Array:
    log_n = log_optimal_n(fitted.law, theta, fitted.centre, flops)
    return np.exp(loss_at(fitted.law, theta, fitted.centre, log_n, flops))


def perplexity(ax: Any, table: Table, fitted: Fitted) -> None:
    """Perplexity against parameters, coloured by tokens, with the law at a few fixed D."""
    grid = np.geomspace(table.N.min(), table.N.max() * 2, 80)
    tokens = np.log10(table.D)
    points = ax.scatter(table.N, np.exp(table.loss), c=tokens, cmap="plasma", s=16, zorder=4)
    for share in (0.1, 0.5, 0.9):
        D = np.full(len(grid), np.quantile(table.D, share))
        colour = points.cmap(points.norm(np.log10(D[0])))
        ax.plot(grid, np.exp(fitted.predict({"N": grid, "D": D})), color=colour, lw=1.4)
    ax.figure.colorbar(points, ax=ax, label="log10 D")
    log_axes(ax, LABEL["N"], "validation perplexity", y_log=True)


def isoflop_groups(table: Table) -> list[Array]:
    """Return the rows of each budget that has at least four sizes, at most eight of them, evenly chosen."""
    groups = [rows for rows in budgets(table) if len(np.unique(np.round(np.log(table.N[rows]), 3))) >= 4]
    if len(groups) <= MOST_BUDGETS:
        return groups
    return [groups[i] for i in np.linspace(0, len(groups) - 1, MOST_BUDGETS).astype(int)]


def isoflops(ax: Any, table: Table, fitted: Fitted) -> None:
    """Loss against size at each budget, with the law and its optimum."""
    import matplotlib

    groups = isoflop_groups(table)
    colours = matplotlib.colormaps["viridis"]
    for k, rows in enumerate(groups):
        flops = float(np.median(table.C[rows]))
        colour = colours(0.92 * k / max(1, len(groups) - 1))
        ax.plot(table.N[rows], table.loss[rows], "o", ms=4, color=colour)
        grid = np.geomspace(table.N[rows].min() / 1.2, table.N[rows].max() * 1.2, 60)
        curve = fitted.predict({"N": grid, "D": flops / 6 / grid})
        ax.plot(grid, curve, color=colour, lw=1.3, label=f"{flops:.1e} FLOPs")
        log_n = log_optimal_n(fitted.law, fitted.theta[None], fitted.centre, flops)
        best = _best_loss(fitted, fitted.theta[None], flops)
        ax.plot(np.exp(log_n), best, "x", color=RED, ms=7, mew=1.8, zorder=6)
    log_axes(ax, LABEL["N"], "validation loss (nats per token)", y_log=False)
    ax.legend(frameon=False, fontsize=8)


def residuals(axes: Sequence[Any], table: Table, fitted: Fitted) -> None:
    """Measured minus law against N, D and C."""
    off = 100 * -fitted.residuals
    for ax, name in zip(axes, ("N", "D", "C"), strict=True):
        ax.axhline(0, color=GREY, lw=0.8)
        ax.plot(table.columns[name], off, "o", ms=3, alpha=0.6, color=BLUE)
        log_axes(ax, LABEL[name], "measured - law (% of the loss)" if name == "N" else "", y_log=False)


def hold_out_errors(ax: Any, results: Sequence[HoldOut]) -> None:
    """Mean absolute error of every law against the distance from what it was fitted to."""
    farthest = max(float(h.distance.max()) for h in results)
    edges = np.geomspace(1, max(farthest, 2) * 1.01, 7)
    middles = np.sqrt(edges[:-1] * edges[1:])
    for k, h in enumerate(results):
        heights = [h.within(low, high) for low, high in itertools.pairwise(edges)]
        known = [(m, 100 * v) for m, v in zip(middles, heights, strict=True) if v is not None]
        ax.plot(*zip(*known, strict=True), "osD^v<"[k % 6] + "-", ms=4.5, lw=1.3, color=PALETTE[k], label=h.law)
    log_axes(ax, "compute of the run over the largest run of the fit", "mean error of the loss (%)", y_log=False)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)


def profiles(axes: Sequence[Any], certificate: Certificate, freedom: int, logarithms: Collection[str]) -> None:
    """Deviance of every parameter and of N*, with the 95 % line."""
    wanted = student_95(max(1, freedom)) ** 2
    for ax, profile in zip(axes, certificate.profiles.values(), strict=False):
        near = profile.deviance < 4 * wanted
        ax.plot(profile.values[near], profile.deviance[near], "o-", ms=3.5, lw=1.3, color=BLUE)
        ax.axhline(wanted, color=RED, lw=1, ls="--")
        ax.set_title(f"ln {profile.name}" if profile.name in logarithms else profile.name, fontsize=9)
        ax.set_ylim(0, 2.2 * wanted)
        ax.tick_params(labelsize=7)
        plain(ax)
    for ax in axes[len(certificate.profiles) :]:
        ax.set_visible(False)
