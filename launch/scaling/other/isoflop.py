"""Approaches 1 and 2 of Hoffmann et al. 2022: the optimum of each budget, then a line through the optima.

    parabola   log loss is a quadratic in log N at each budget (approach 2). Biased on wide grids (arXiv 2603.22339).
    akima      Akima's interpolation of log loss in log N (Porian et al. 2024, arXiv 2406.19146, section 3.2)
    envelope   the lowest loss at each level of compute over all runs (approach 1)

Then N* = k C^a by least squares in logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array, near_groups, robust_sd
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import check_replicates
from trainer.contract.errors import UserError

METHODS = ("isoflop-parabola", "isoflop-akima", "envelope")
SAME_BUDGET = 0.08  # of the logarithm: budgets nearer than this are one
ONE_BUDGET = 0.2  # of the logarithm, from the first run of a budget to its last: strewn runs make no budget
ONE_SIZE = 1e-3  # of the logarithm: sizes nearer than this are one
GRID = 401  # points of an interpolated curve

Sizes = tuple[Array, Array]  # of one budget: log N, ascending, and the lowest log loss of each


@dataclass(frozen=True)
class Optimum:
    """The best size at one budget. `width` is how many sizes were tried."""

    flops: float
    N: float
    loss: float
    width: int


@dataclass(frozen=True)
class Frontier:
    """N* = k C^a through the optima, with 95 % intervals of a from a bootstrap."""

    method: str
    optima: tuple[Optimum, ...]
    exponent: float
    coefficient: float
    interval: tuple[float, float] | None
    skipped: tuple[str, ...]


def budgets(table: Table) -> list[Array]:
    """Group rows by compute, each within 8 % of the next one. Returns row indices, smallest budget first.

    A group wider than `ONE_BUDGET` is no budget: its runs lie strewn.
    """
    order = np.argsort(table.C)
    logs = np.log(table.C[order])
    cuts = np.flatnonzero(np.diff(logs) > SAME_BUDGET) + 1
    return [np.sort(part) for part in np.split(order, cuts)]


def fit_frontier(table: Table, method: str, *, bootstrap: int = 200, seed: int = 0) -> Frontier:
    """Find the optimum of each budget and the power law through them.

    Budgets whose lowest loss lies at an end of the grid, or with fewer than three sizes, are left out and named.
    The interval comes from resampled budgets, each with the noise of its runs drawn anew (for the envelope, from
    resampled optima). Raises `UserError` with fewer than three usable budgets or too few replicates.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r} (known: {', '.join(METHODS)})")
    check_replicates(bootstrap, seed)
    table.require(("N", "C"), method)
    optima, skipped, tried = envelope(table) if method == "envelope" else _per_budget(table, method)
    if len(optima) < 3:
        raise UserError(
            f"{method}: {len(optima)} budgets have an optimum inside their grid, 3 are needed"
            + (f" ({'; '.join(skipped[:4])})" if skipped else "")
        )
    x, y = np.log([o.flops for o in optima]), np.log([o.N for o in optima])
    a, k = np.polyfit(x, y, 1)
    interval = _interval(x, y, tried, method, bootstrap, seed)
    return Frontier(method, tuple(optima), float(a), float(np.exp(k)), interval, tuple(skipped))


def _per_budget(table: Table, method: str) -> tuple[list[Optimum], list[str], list[Sizes]]:
    """Return the optimum of each usable budget, why others were left out, and what was tried at the usable ones."""
    optima: list[Optimum] = []
    skipped: list[str] = []
    tried: list[Sizes] = []
    for rows in budgets(table):
        flops = float(np.median(table.C[rows]))
        if np.ptp(np.log(table.C[rows])) > ONE_BUDGET:
            low, high = table.C[rows].min(), table.C[rows].max()
            skipped.append(f"{low:.2g} to {high:.2g} FLOPs: {len(rows)} runs strewn between, at no common budget")
            continue
        x, y = _best_per_size(np.log(table.N[rows]), np.log(table.loss[rows]))
        if len(x) < 3:
            skipped.append(f"{flops:.2g} FLOPs: {len(x)} {'size' if len(x) == 1 else 'sizes'}")
            continue
        found = MINIMUM[method](x, y)
        if found is None:
            skipped.append(f"{flops:.2g} FLOPs: the lowest loss is at the end of the grid")
        else:
            optima.append(Optimum(flops, float(np.exp(found[0])), float(np.exp(found[1])), len(x)))
            tried.append((x, y))
    return optima, skipped, tried


def _best_per_size(x: Array, y: Array) -> tuple[Array, Array]:
    """Keep the lowest loss of each size, sizes ascending. Sizes within `ONE_SIZE` are one: a curve through two losses
    of nearly one size would swing far below both.
    """
    index = near_groups(x, ONE_SIZE)
    best = [i[np.argmin(y[i])] for i in (np.flatnonzero(index == k) for k in range(int(index.max()) + 1))]
    return x[best], y[best]


def parabola_minimum(x: Array, y: Array) -> tuple[float, float] | None:
    """Return the vertex of the least-squares parabola, or None where it opens downwards or lies outside."""
    shift = x.mean()
    c2, c1, c0 = np.polyfit(x - shift, y, 2)
    if c2 <= 0:
        return None
    vertex = -c1 / (2 * c2)
    if not x[0] <= vertex + shift <= x[-1]:
        return None
    return float(vertex + shift), float(c0 - c1**2 / (4 * c2))


def akima_minimum(x: Array, y: Array) -> tuple[float, float] | None:
    """Return the minimum of Akima's interpolant, or None where it lies at an end."""
    from scipy.interpolate import Akima1DInterpolator  # only this method pays for scipy

    grid = np.linspace(x[0], x[-1], GRID * (len(x) - 1))
    curve = Akima1DInterpolator(x, y)(grid)
    best = int(np.argmin(curve))
    if best in (0, len(grid) - 1):
        return None
    return float(grid[best]), float(curve[best])


MINIMUM = {"isoflop-parabola": parabola_minimum, "isoflop-akima": akima_minimum}


def envelope(table: Table) -> tuple[list[Optimum], list[str], list[Sizes]]:
    """Return the runs on the lower envelope of loss against compute: each is better than all cheaper ones."""
    order = np.argsort(table.C, kind="stable")
    best, found = np.inf, []
    for i in order:
        if table.loss[i] < best:
            best = float(table.loss[i])
            found.append(Optimum(float(table.C[i]), float(table.N[i]), best, 1))
    return found, [], []


def _interval(
    x: Array, y: Array, tried: Sequence[Sizes], method: str, bootstrap: int, seed: int
) -> tuple[float, float] | None:
    if bootstrap <= 0 or len(x) < 4:
        return None
    random = np.random.default_rng(seed)
    noise, slopes = run_noise(tried), []
    for _ in range(bootstrap):
        pick = random.integers(len(x), size=len(x))
        best = y[pick].copy()
        for place, i in enumerate(pick if noise > 0 else ()):
            sizes, losses = tried[i]
            found = MINIMUM[method](sizes, losses + noise * random.standard_normal(len(losses)))
            best[place] = found[0] if found else np.nan
        known = np.isfinite(best)
        if len(np.unique(pick[known])) > 1:
            slopes.append(np.polyfit(x[pick][known], best[known], 1)[0])
    low, high = np.quantile(slopes, [0.025, 0.975])
    return float(low), float(high)


def run_noise(tried: Sequence[Sizes]) -> float:
    """Return the standard deviation of log loss of one run, 0 where no budget has four sizes.

    Four neighbouring sizes leave one contrast that no parabola explains, of the same deviation as one run; the median
    over all of them is little moved by where the curve is no parabola.
    """
    contrasts = []
    for sizes, losses in tried:
        for i in range(len(sizes) - 3):
            window = sizes[i : i + 4] - sizes[i]
            basis = np.linalg.qr(np.vander(window, 3), mode="complete")[0]
            contrasts.append(float(basis[:, 3] @ losses[i : i + 4]))
    return robust_sd(np.array(contrasts)) if contrasts else 0.0


def frontier_json(frontier: Frontier) -> dict[str, object]:
    """Return what `escala fit --law isoflop-... --json` prints."""
    return {
        "law": frontier.method,
        "formula": "N* = k C^a",
        "params": {"a": frontier.exponent, "k": frontier.coefficient},
        "intervals": {"a": list(frontier.interval)} if frontier.interval else {},
        "optima": [vars(o) for o in frontier.optima],
        "skipped": list(frontier.skipped),
    }


def exponents(table: Table) -> dict[str, float | None]:
    """Return the exponent of N* by every method; None where one does not apply."""
    found: dict[str, float | None] = {}
    for method in METHODS:
        try:
            found[method] = fit_frontier(table, method, bootstrap=0).exponent
        except UserError:
            found[method] = None
    return found
