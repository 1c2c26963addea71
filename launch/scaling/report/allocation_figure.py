"""The best size and length against the budget: by the law with its band, by every other law, by the IsoFLOP methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted, fit_law
from launch.scaling.laws.optimum import log_optimal_n
from launch.scaling.laws.registry import FIXED
from launch.scaling.other.isoflop import METHODS, Frontier, fit_frontier
from launch.scaling.questions.next_run import decide
from launch.scaling.questions.saved_fit import SavedFit
from launch.scaling.report.axes import LABEL, legend_above, log_x, log_y
from launch.scaling.report.figures import PALETTE
from launch.scaling.report.hover import label
from launch.scaling.report.model import Figure
from launch.scaling.table.table import Table
from launch.show.text import count, flops_text
from trainer.contract.errors import UserError

BUDGETS = 16  # at which the band is computed
BEYOND = 10.0  # times the largest budget: how far the lines go
MARKERS = "osD^v<"


@dataclass(frozen=True)
class Allocations:
    """Best N at budgets (b,) of the chosen law with its interval (b, 2), of other laws, and the methods' optima."""

    law: str
    flops: Array
    best: Array
    band: Array | None
    others: tuple[tuple[str, Array], ...]
    frontiers: tuple[Frontier, ...]


def allocations(table: Table, fitted: Fitted, saved: SavedFit, laws: Sequence[str]) -> Allocations:
    """Ask the law that `saved` answers for, and every other one of `laws` fitted anew, at budgets of the table."""
    spent = 6 * table.N * table.D
    flops = np.geomspace(spent.min(), BEYOND * spent.max(), BUDGETS)
    decisions = [decide(saved, float(c)) for c in flops]
    ends = [d.N.interval for d in decisions if d.N.interval is not None]
    others = []
    for name in laws:
        law = FIXED[name]
        if name != fitted.law.name and set(law.variables) == {"N", "D"}:
            other = fit_law(law, table.columns, table.loss, fitted.cost)
            sizes = [log_optimal_n(law, other.theta[None], other.centre, float(c))[0] for c in flops]
            others.append((name, np.exp(sizes)))
    best = np.array([d.N.value for d in decisions])
    band = np.array(ends) if len(ends) == len(flops) else None
    return Allocations(fitted.law.name, flops, best, band, tuple(others), _frontiers(table))


def _frontiers(table: Table) -> tuple[Frontier, ...]:
    found = []
    for method in METHODS:
        try:
            found.append(fit_frontier(table, method, bootstrap=0))
        except UserError:  # no three budgets with an optimum inside: this method says nothing here
            continue
    return tuple(found)


def allocation_figures(a: Allocations) -> list[Figure]:
    """Return N*(C) and D*(C)."""
    methods = f" Marks: optima by {', '.join(f.method for f in a.frontiers)}." if a.frontiers else ""
    band = " with its 95 % interval" if a.band is not None else ""
    caption = f"by {a.law}{band} and by the other laws, up to ten times the largest budget.{methods}"
    return [
        Figure("best_parameters", f"Best parameters for a budget {caption}", lambda ax: allocation(ax, a, "N")),
        Figure("best_tokens", f"Best tokens for a budget {caption}", lambda ax: allocation(ax, a, "D")),
    ]


def allocation(ax: Any, a: Allocations, name: str) -> None:
    """Draw N*(C), or D*(C) = C / (6 N*)."""
    best = _shown(name, a.best, a.flops)
    if a.band is not None:
        low, high = (_shown(name, end, a.flops) for end in a.band.T)
        ax.fill_between(a.flops, low, high, color="black", alpha=0.15, lw=0, label="95 %")
    ax.plot(a.flops, best, color="black", lw=1.6, label=a.law, zorder=5)
    for k, (law, sizes) in enumerate(a.others):
        ax.plot(a.flops, _shown(name, sizes, a.flops), "--", lw=1.2, color=PALETTE[k], label=law)
    for k, frontier in enumerate(a.frontiers):
        flops = np.array([o.flops for o in frontier.optima])
        values = _shown(name, np.array([o.N for o in frontier.optima]), flops)
        look = {"ms": 4.5, "mfc": "none", "color": PALETTE[3 + k], "label": frontier.method}
        ax.plot(flops, values, MARKERS[k], **look)
        label(ax, flops, values, [_text(frontier.method, name, c, v) for c, v in zip(flops, values, strict=True)])
    label(ax, a.flops, best, [_text(a.law, name, c, v) for c, v in zip(a.flops, best, strict=True)])
    log_x(ax, "C", LABEL[name].replace(name, f"{name}*"))
    ax.set_xlabel("training FLOPs C = 6 N D")
    log_y(ax, np.concatenate([best, *(_shown(name, sizes, a.flops) for _, sizes in a.others)]), count)
    legend_above(ax, 3)


def _shown(name: str, sizes: Array, flops: Array) -> Array:
    return sizes if name == "N" else flops / (6 * sizes)


def _text(by: str, name: str, flops: float, value: float) -> str:
    return f"{by}: {name}* {count(float(value))} at {flops_text(float(flops))} FLOPs"
