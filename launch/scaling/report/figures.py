"""Charts of a report. Every function draws one idea into one matplotlib axes.

Colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart; markers differ too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from launch.scaling.ladder import Ladder
from launch.scaling.objective import Array
from launch.scaling.table import Table

BLUE, ORANGE, GREEN, RED, GREY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666", "#CC79A7"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, "#56B4E9", "#F0E442", GREY)
LABEL = {"N": "parameters N", "D": "training tokens D", "C": "training FLOPs C"}
SHORT_AXIS = 60.0  # an axis that spans less than this factor
REACH = 2.0  # how far beyond the largest cell a law is drawn


def ladder(ax: Any, fitted: Ladder) -> None:
    """Perplexity against size with every law, the band of the preferred one and the held-out cells."""
    table, variable = fitted.table, fitted.variable
    values = table.columns[variable]
    grid = np.geomspace(values.min() / 1.3, values.max() * REACH, 160)
    band = fitted.preferred.band(variable, grid)
    if band is not None:
        ax.fill_between(grid, *np.exp(band), color=BLUE, alpha=0.13, lw=0)
    for law, colour, style in zip(fitted.laws, (ORANGE, BLUE), ("--", "-"), strict=False):
        predicted = np.exp(law.fitted.predict({variable: grid}))
        ax.plot(grid, predicted, style, color=colour, lw=1.7, label=law.fitted.law.formula)
    seen, held = ~fitted.held_out, fitted.held_out
    ax.plot(values[seen], np.exp(table.loss[seen]), "o", color="black", ms=5.5, label="fitted cells", zorder=5)
    if held.any():
        look: dict[str, Any] = {"mfc": "white", "mec": RED, "mew": 1.8, "ms": 8, "label": "held out", "zorder": 6}
        ax.plot(values[held], np.exp(table.loss[held]), "o", **look)
    log_axes(ax, LABEL[variable], "validation perplexity", y_log=True)
    ax.legend(frameon=False)


def compute(ax: Any, table: Table, held_out: Array | None = None) -> None:
    """Loss against compute, coloured by size, with the lowest loss at each budget as a step line."""
    order = np.argsort(table.C)
    best = np.minimum.accumulate(table.loss[order])
    ax.step(table.C[order], best, where="post", color=GREY, lw=1.2, label="best so far")
    sizes = np.log10(table.N)
    points = ax.scatter(table.C, table.loss, c=sizes, cmap="viridis", s=26, zorder=5)
    if held_out is not None and held_out.any():
        ax.scatter(table.C[held_out], table.loss[held_out], s=110, facecolors="none", edgecolors=RED, label="held out")
    ax.figure.colorbar(points, ax=ax, label="log10 N")
    log_axes(ax, LABEL["C"], "validation loss (nats per token)", y_log=False)
    ax.legend(frameon=False)


def ladder_residuals(ax: Any, fitted: Ladder) -> None:
    """Measured minus law, in percent of the loss."""
    values, loss = fitted.table.columns[fitted.variable], fitted.table.loss
    ax.axhline(0, color=GREY, lw=0.8)
    for law, colour, marker in zip(fitted.laws, (ORANGE, BLUE), "so", strict=False):
        predicted = law.fitted.predict({fitted.variable: values})
        off = 100 * (np.log(loss) - np.log(predicted))
        seen = ~fitted.held_out
        ax.plot(values[seen], off[seen], marker, color=colour, ms=5.5, label=law.fitted.law.formula)
        ax.plot(values[~seen], off[~seen], marker, mfc="white", mec=colour, mew=1.6, ms=8)
    log_axes(ax, LABEL[fitted.variable], "measured - law (% of the loss)", y_log=False)
    ax.legend(frameon=False)


def by_position(ax: Any, table: Table) -> None:
    """Loss by position in the context for each cell."""
    import matplotlib

    colours = matplotlib.colormaps["viridis"]
    order = [i for i in np.argsort(table.N) if table.by_position[i]]
    names = table.labels.get("name")
    for rank, i in enumerate(order):
        losses = np.asarray(table.by_position[i], float)
        position = (np.arange(len(losses)) + 0.5) / len(losses)
        label = str(names[i]) if names is not None else f"N = {table.N[i]:.3g}"
        colour = colours(rank / max(1, len(order) - 1) * 0.92)
        ax.plot(position, losses, "o-", ms=3.5, lw=1.4, color=colour, label=label)
    ax.set_xlabel("position in the context (share of its length)")
    ax.set_ylabel("validation loss (nats per token)")
    ax.legend(frameon=False, fontsize=8, ncols=2 if len(order) > 5 else 1)
    plain(ax)


def layouts(ax: Any, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """Training curves of one cell under several layouts, drawn so that identical ones stay visible."""
    styles = [("-", 4.0, 0.35), ("--", 1.6, 1.0), (":", 2.2, 1.0)]
    for k, (name, (steps, losses)) in enumerate(curves.items()):
        style, width, alpha = styles[k % len(styles)]
        ax.plot(steps, losses, style, lw=width, alpha=alpha, color=PALETTE[k], label=name)
    ax.set_xlabel("step")
    ax.set_ylabel("training loss (nats per token)")
    ax.legend(frameon=False)
    plain(ax)


def log_axes(ax: Any, x_label: str, y_label: str, *, y_log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    left, right = ax.get_xlim()
    if right / left < SHORT_AXIS:  # one or two decades: label the numbers between them too
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    if y_log:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        if high / low < 30:  # decades would leave the axis without labels
            ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
            ax.set_yticks([t for t in ticks if low <= t <= high])
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.minorticks_on()
            ax.yaxis.set_minor_locator(_none())
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    plain(ax)


def power_of_ten(value: float) -> str:
    """Write 10⁸, 3×10⁷: matplotlib's own formatter parses mathematics, which takes most of the time of a chart."""
    exponent = int(np.floor(np.log10(value) + 1e-9))
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    factor = value / 10.0**exponent
    return f"10{digits}" if abs(factor - 1) < 1e-6 else f"{factor:.3g}×10{digits}"


def _none() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def plain(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, lw=0.6)
