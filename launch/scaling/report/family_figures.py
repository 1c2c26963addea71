"""Charts that compare families: perplexity against size, and loss against the place in the context."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import near_groups
from launch.scaling.report.axes import NATS, PERPLEXITY, legend_above, log_x, log_y, plain
from launch.scaling.report.figures import PALETTE
from launch.scaling.table.table import Table

MARKERS, STYLES = "osD^vPX*", ("-", "--", ":")
SAME = 1e-6  # of the logarithm: runs of one family and size


def curves(ax: Any, table: Table, variable: str, families: tuple[str, ...]) -> None:
    """Perplexity against `variable`: a dot a run, a line through the means of each family."""
    for look, mine in _looks(table, families):
        values, losses = table.columns[variable][mine], table.loss[mine]
        ax.plot(values, np.exp(losses), look["marker"], color=look["color"], ms=4, alpha=0.55, mew=0)
        places = near_groups(np.log(values), SAME)
        number = np.bincount(places)
        means = np.bincount(places, values) / number, np.bincount(places, losses) / number
        ax.plot(means[0], np.exp(means[1]), ms=5.5, lw=1.6, **look)
    log_x(ax, variable, PERPLEXITY)
    log_y(ax, np.exp(table.loss))
    legend_above(ax, 3)


def frontiers(ax: Any, table: Table, families: tuple[str, ...]) -> None:
    """Perplexity against compute: a dot a run, and a step line at the lowest of each family so far."""
    for look, mine in _looks(table, families):
        order = np.flatnonzero(mine)[np.argsort(table.C[mine], kind="stable")]
        losses = table.loss[order]
        ax.plot(table.C[order], np.exp(losses), look["marker"], color=look["color"], ms=4, alpha=0.6, mew=0)
        best = np.exp(np.minimum.accumulate(losses))
        ax.step(table.C[order], best, where="post", lw=1.5, color=look["color"], ls=look["ls"], label=look["label"])
    log_x(ax, "C", PERPLEXITY)
    log_y(ax, np.exp(table.loss))
    legend_above(ax, 3)


def positions(ax: Any, table: Table, largest: NDArray[np.bool_], families: tuple[str, ...]) -> None:
    """Loss by position in the context at each family's largest size, `largest` (n,), a line a family over its seeds."""
    for look, mine in _looks(table, families):
        rows = [table.by_position[i] for i in np.flatnonzero(mine & largest).tolist() if table.by_position[i]]
        if not rows:
            continue
        losses = np.mean([row for row in rows if len(row) == len(rows[0])], axis=0)
        ax.plot((np.arange(len(losses)) + 0.5) / len(losses), losses, ms=3, lw=1.4, **look)
    ax.set_xlabel("position in the context (share of its length)")
    ax.set_ylabel(NATS)
    plain(ax)
    legend_above(ax, 3)


def _looks(table: Table, families: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], NDArray[np.bool_]]]:
    """Yield how each family is drawn, and which rows (n,) are its runs."""
    for k, name in enumerate(families):
        style = STYLES[k // len(PALETTE) % len(STYLES)]
        look = {"color": PALETTE[k % len(PALETTE)], "marker": MARKERS[k % len(MARKERS)], "ls": style, "label": name}
        yield look, table.labels["group"] == name
