"""Charts of a report about one ladder. Every function draws one idea into matplotlib axes.

Colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart; markers differ too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.other.ladder import Ladder
from launch.scaling.report.axes import NATS, PERPLEXITY, Scale, legend_above, log_x, log_y, plain
from launch.scaling.report.hover import label, run_texts
from launch.scaling.table.table import Table

BLUE, ORANGE, GREEN, RED, GREY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666", "#CC79A7"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, "#56B4E9", "#F0E442", GREY)
REACH = 2.0  # how far beyond the largest cell a law is drawn
BAND_ROOM = 0.3  # nats by which a band is shown beyond the cells and the law
LAW_ROOM = 3.0  # nats by which a law is shown beyond the cells: one of a few odd cells may rise without end
OFF = "measured - law (% of loss)"


def ladder(ax: Any, fitted: Ladder) -> None:
    """Perplexity against size with every law, the band of the preferred one and the held-out cells."""
    table, variable = fitted.table, fitted.variable
    values = table.columns[variable]
    grid = np.geomspace(values.min() / 1.3, values.max() * REACH, 160)
    band = fitted.preferred.band(variable, grid)
    view = table.loss.min() - LAW_ROOM, table.loss.max() + LAW_ROOM
    if band is not None:
        ax.fill_between(grid, *np.exp(np.clip(band, *view)), color=BLUE, alpha=0.13, lw=0)
    for law, colour, style in zip(fitted.laws, (ORANGE, BLUE), ("--", "-"), strict=False):
        predicted = np.exp(np.clip(law.fitted.predict({variable: grid}), *view))
        ax.plot(grid, predicted, style, color=colour, lw=1.7, label=law.fitted.law.formula)
    seen, held = ~fitted.held_out, fitted.held_out
    ax.plot(values[seen], np.exp(table.loss[seen]), "o", color="black", ms=5, label="fitted cells", zorder=5)
    if held.any():
        look: dict[str, Any] = {"mfc": "white", "mec": RED, "mew": 1.8, "ms": 7, "label": "held out", "zorder": 6}
        ax.plot(values[held], np.exp(table.loss[held]), "o", **look)
    label(ax, values, np.exp(table.loss), run_texts(table, fitted.preferred.fitted.predict({variable: values})))
    log_x(ax, variable, PERPLEXITY)
    seen_losses = np.array([*table.loss, *np.clip(fitted.preferred.fitted.predict({variable: grid}), *view)])
    if band is not None:  # as far as it leaves the cells room
        low, high = seen_losses.min() - BAND_ROOM, seen_losses.max() + BAND_ROOM
        seen_losses = np.concatenate([seen_losses, np.clip(band, low, high).ravel()])
    log_y(ax, np.exp(seen_losses))
    legend_above(ax)


def compute(ax: Any, table: Table, held_out: Array | None = None) -> None:
    """Loss against compute, coloured by size, with the lowest loss at each budget as a step line."""
    order = np.argsort(table.C)
    best = np.minimum.accumulate(table.loss[order])
    ax.step(table.C[order], best, where="post", color=GREY, lw=1.2, label="frontier of the runs")
    sizes = Scale("N", table.N)
    sizes.scatter(ax, table.C, table.loss, table.N)
    label(ax, table.C, table.loss, run_texts(table))
    if held_out is not None and held_out.any():
        ring: dict[str, Any] = {"s": 90, "facecolors": "none", "edgecolors": RED, "label": "held out"}
        ax.scatter(table.C[held_out], table.loss[held_out], **ring)
    sizes.bar(ax)
    log_x(ax, "C", NATS)
    legend_above(ax)


def ladder_residuals(axes: Sequence[Any], fitted: Ladder, names: Sequence[str]) -> None:
    """Measured minus law, in percent of the loss, against each of N, D and C that differs between cells."""
    table, seen = fitted.table, ~fitted.held_out
    for ax, name in zip(axes, names, strict=True):
        values = table.columns[name]
        ax.axhline(0, color=GREY, lw=0.8)
        for law, colour, marker in zip(fitted.laws, (ORANGE, BLUE), "so", strict=False):
            predicted = law.fitted.predict({fitted.variable: table.columns[fitted.variable]})
            off = 100 * (np.log(table.loss) - np.log(predicted))
            ax.plot(values[seen], off[seen], marker, color=colour, ms=5, label=law.fitted.law.formula)
            ax.plot(values[~seen], off[~seen], marker, mfc="white", mec=colour, mew=1.6, ms=7)
        log_x(ax, name, OFF)
        legend_above(ax, 1)


def by_position(ax: Any, table: Table) -> None:
    """Loss by position in the context, a line a cell, coloured by size (by tokens where all have one size)."""
    name = "N" if np.ptp(table.N) > 0 else "D"
    values = table.columns[name]
    colours = Scale(name, values)
    for i in np.argsort(values):
        if table.by_position[i]:
            losses = np.asarray(table.by_position[i], float)
            position = (np.arange(len(losses)) + 0.5) / len(losses)
            ax.plot(position, losses, "o-", ms=2.5, lw=1.2, color=colours(values[i]))
    colours.bar(ax)
    ax.set_xlabel("position in the context (share of its length)")
    ax.set_ylabel(NATS)
    plain(ax)


def layouts(ax: Any, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """Training curves of one cell under several layouts, drawn so that identical ones stay visible."""
    styles = [("-", 4.0, 0.35), ("--", 1.6, 1.0), (":", 2.2, 1.0)]
    for k, (name, (steps, losses)) in enumerate(curves.items()):
        style, width, alpha = styles[k % len(styles)]
        ax.plot(steps, losses, style, lw=width, alpha=alpha, color=PALETTE[k], label=name)
    ax.set_xlabel("step")
    ax.set_ylabel("training loss (nats per token)")
    plain(ax)
    legend_above(ax, 1)
