"""What the residuals of a fit say against it: errors that runs share, and a form that the runs bend away from.

A certificate asks whether the runs determine the law's parameters. Its intervals, and those of a bootstrap by row, hold
what they say only where errors are independent and the law is right. Two F tests of the residuals ask that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array, robust_sd
from launch.scaling.fit.fit import Fitted
from launch.scaling.table.clusters import clusters
from launch.scaling.table.table import Table

SIGNIFICANT = 1e-3
FEWEST = 4  # groups of a test, and degrees of freedom left to it
OUTLYING = 4.0  # robust standard deviations at which residuals are cut off: one odd run is not a trend


@dataclass(frozen=True)
class Doubt:
    """One test that failed. `size` is how large the effect is, as a share of the loss."""

    kind: str  # shared-error or bend
    by: str  # the column whose runs share an error; the law's variables for a bend
    size: float
    f_ratio: float
    p_value: float

    @property
    def sentence(self) -> str:
        test = f"(F = {self.f_ratio:.3g}, p = {self.p_value:.1g})"
        if self.kind == "bend":
            return (
                f"the runs bend away from the law in {self.by} by {self.size:.2%} of the loss {test}: larger runs may "
                "miss by more than the intervals; see which law held-out budgets choose"
            )
        return (
            f"runs of one {self.by} share an error of {self.size:.2%} of the loss {test}: intervals by row are too "
            f"narrow; fit with --cluster {self.by}"
        )

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"sentence": self.sentence}


def doubts(fitted: Fitted, table: Table, cluster: str | None = None) -> tuple[Doubt, ...]:
    """Return what speaks against a fit to `table`. Errors shared within `cluster` are in its bootstrap already."""
    found = [*_shared_errors(fitted, table, cluster), *_bend(fitted)]
    return tuple(d for d in found if d.p_value < SIGNIFICANT)


def _shared_errors(fitted: Fitted, table: Table, cluster: str | None) -> Iterator[Doubt]:
    """Compare the scatter between groups of runs with that within them (one-way analysis of variance).

    A sweep's own column `trunk` is asked before N: cells of one trunk have one size. A column that tells the same
    groups apart as one before it, or as `cluster`, is not asked.
    """
    seen = [] if cluster is None else [_numbered(clusters(table, cluster))]
    for by in ("trunk", "N", "D"):
        if by not in table.labels and by not in fitted.law.variables:
            continue
        group = _numbered(clusters(table, by))
        if any(np.array_equal(group, other) for other in seen):
            continue
        seen.append(group)
        repeated = np.bincount(group)[group] > 1
        _, group = np.unique(group[repeated], return_inverse=True)
        residual, counts = _cut(fitted.residuals)[repeated], np.bincount(group)
        freedom = len(counts) - 1, len(residual) - len(counts)
        if len(counts) < FEWEST or freedom[1] < FEWEST:
            continue
        means = np.bincount(group, residual) / counts
        within = float(np.sum((residual - means[group]) ** 2)) / freedom[1]
        between = float(np.sum(counts * (means - residual.mean()) ** 2)) / freedom[0]
        size = (max(between - within, 0.0) / float(np.mean(counts))) ** 0.5
        yield _doubt("shared-error", by, size, between, within, freedom)


def _numbered(names: NDArray[np.str_]) -> Array:
    """Return the number of each row's group, in order of appearance."""
    _, first, group = np.unique(names, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[group])


def _bend(fitted: Fitted) -> Iterator[Doubt]:
    """Ask whether squares and products of the logarithms explain what the law leaves (cf. Tukey 1949).

    Both are taken without what a small change of the law's own parameters would do.
    """
    x = fitted.centre.logs(fitted.columns)
    varying = [v for v in fitted.law.variables if v in ("N", "D", "C") and np.std(x[v]) > 0]
    scaled = [(x[v] - x[v].mean()) / x[v].std() for v in varying]
    products = np.array([a * b for i, a in enumerate(scaled) for b in scaled[: i + 1]])
    tangent = fitted.law.log_loss(fitted.theta[None], x)[1][0]
    freedom = len(products), len(fitted.loss) - len(tangent) - len(products)
    if not varying or freedom[1] < FEWEST:
        return
    own = np.linalg.qr(tangent.T)[0]
    residual = _without(own, _cut(fitted.residuals))
    trend = np.linalg.qr(_without(own, products.T))[0]
    explained = trend @ (trend.T @ residual)
    rest = float(np.sum((residual - explained) ** 2)) / freedom[1]
    size = float(np.sqrt(np.mean(explained**2)))
    yield _doubt("bend", " and ".join(varying), size, float(np.sum(explained**2)) / freedom[0], rest, freedom)


def _doubt(kind: str, by: str, size: float, high: float, low: float, freedom: tuple[int, int]) -> Doubt:
    from scipy.special import fdtrc  # the rest of a fit does without scipy

    if low <= 0:
        return Doubt(kind, by, size, 0.0, 1.0)  # a noise-free table: nothing is left to explain
    return Doubt(kind, by, size, high / low, float(fdtrc(*freedom, high / low)))


def _cut(residual: Array) -> Array:
    limit = OUTLYING * robust_sd(residual)
    return np.clip(residual, -limit, limit)


def _without(basis: Array, values: Array) -> Array:
    return np.asarray(values - basis @ (basis.T @ values))
