"""Errors that runs of one size, length, budget or trunk share: found in the residuals, and sized.

One-way analysis of variance of what a fit leaves, without what a small change of the law's own parameters would
explain: a law takes a part of every shared error, so that six sizes leave three degrees of freedom, not five.
Repeats of one N and D count as one run, their mean: what they share is the place, not the group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array, numbered_columns, robust_sd
from launch.scaling.fit.fit import Fitted
from launch.scaling.table.clusters import clusters
from launch.scaling.table.table import Table

KINDS = ("trunk", "N", "D", "C")
WORDS = {"N": "size (N)", "D": "length (D)", "C": "budget (C)"}  # what a group of one N, D or C is called
FEWEST_GROUPS = 3  # of several runs
FEWEST = 4  # degrees of freedom left within them
LEAST_FREEDOM = 2  # of the variance between groups when it is drawn
OUTLYING = 4.0  # robust standard deviations at which residuals are cut off: one odd run is no group
RANK = 1e-8  # relative singular value below which a direction is another one again
TAKEN = 0.1  # of the runs of a mean group: a direction of which the law leaves less says nothing of shared errors


@dataclass(frozen=True)
class SharedError:
    """The scatter of groups of runs against that within them, in log loss.

    `between` and `within` are mean squares; `between` exceeds `within` by `weight` times the shared error's variance.
    """

    by: str
    group: NDArray[np.int64]  # (n,): the number of each row's group
    between: float
    within: float
    freedom: tuple[int, int]
    weight: float
    p_value: float

    @property
    def f_ratio(self) -> float:
        """Return the variance between groups over that within; 0 without any within."""
        return self.between / self.within if self.within > 0 else 0.0

    @property
    def sd(self) -> float:
        """The shared error's standard deviation, as a share of the loss."""
        return float((max(self.between - self.within, 0.0) / self.weight) ** 0.5)

    def draw(self, num: int, random: np.random.Generator) -> Array:
        """Return shared errors (num, n), their variance drawn too: few groups hardly say how large it is.

        As if groups had left `LEAST_FREEDOM` degrees of freedom where they left one, which would make any answer
        infinite: leaving out each group says what the fit hangs on.
        """
        freedom = max(self.freedom[0], LEAST_FREEDOM)
        between = self.between * freedom / random.chisquare(freedom, num)
        within = self.within * self.freedom[1] / random.chisquare(self.freedom[1], num)
        sds = np.sqrt(np.maximum(between - within, 0.0) / self.weight)
        errors = random.standard_normal((num, int(self.group.max()) + 1))
        return np.asarray((sds[:, None] * errors)[:, self.group])


def shared_errors(fitted: Fitted, table: Table, known: str | None = None) -> Iterator[SharedError]:
    """Yield the test of each kind of group that the table knows.

    A kind that tells the same groups apart as one before it, or as `known`, is not asked. A sweep's own column `trunk`
    is asked before N: cells of one trunk have one size.
    """
    seen = [] if known is None else [numbered(clusters(table, known))]
    for by in KINDS:
        if by not in table.labels and by not in table.columns:
            continue
        group = numbered(clusters(table, by))
        if any(np.array_equal(group, other) for other in seen):
            continue
        seen.append(group)
        found = _analysed(fitted, by, group)
        if found is not None:
            yield found


def _analysed(fitted: Fitted, by: str, group: NDArray[np.int64]) -> SharedError | None:
    x = fitted.centre.logs(fitted.columns)
    first, cell = numbered_columns(np.round(np.stack(list(x.values())), 6))
    members = group[first]
    sizes = np.bincount(members)
    if np.sum(sizes > 1) < FEWEST_GROUPS:
        return None
    repeats = np.bincount(cell)[:, None]
    own = basis(_sums(fitted.law.log_loss(fitted.theta[None], x)[1][0].T, cell) / repeats)
    residual = without(own, (_sums(cut(fitted.residuals)[:, None], cell) / repeats)[:, 0])
    # Of the indicators of groups without their part along `own`: lengths and directions come from their inner products,
    # so that a large table needs no matrix of its runs by its groups.
    absorbed = _sums(own, members)
    lengths, directions = np.linalg.eigh(np.diag(sizes) - absorbed @ absorbed.T)
    left = lengths >= TAKEN * float(np.mean(sizes))
    lengths, directions = lengths[left], directions[:, left]
    freedom = len(lengths), len(residual) - own.shape[1] - len(lengths)
    if freedom[0] < 1 or freedom[1] < FEWEST:
        return None
    shared = directions.T @ _sums(residual[:, None], members)[:, 0] / np.sqrt(lengths)
    between = float(shared @ shared) / freedom[0]
    within = max(float(residual @ residual - shared @ shared), 0.0) / freedom[1]
    return SharedError(by, group, between, within, freedom, float(np.mean(lengths)), p_of_f(between, within, freedom))


def _sums(values: Array, part: NDArray[np.int64]) -> Array:
    """Return the sum over each part of the rows of `values` (n, k): (parts, k)."""
    return np.stack([np.bincount(part, column) for column in values.T], axis=1)


def p_of_f(high: float, low: float, freedom: tuple[int, int]) -> float:
    """Return the p value of a ratio of mean squares; 1 for runs without noise, which leave nothing to explain."""
    from scipy.special import fdtrc  # the rest of a fit does without scipy

    return 1.0 if low <= 0 else float(fdtrc(*freedom, high / low))


def numbered(names: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return the number of each row's group, in order of appearance."""
    _, first, group = np.unique(names, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[group])


def cut(residual: Array) -> Array:
    """Return residuals cut off where one odd run would look like a trend."""
    limit = OUTLYING * robust_sd(residual)
    return np.clip(residual, -limit, limit)


def basis(columns: Array) -> Array:
    """Return orthonormal columns (n, k) that span these (n, m), k <= m."""
    u, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(u[:, sizes > RANK * max(float(sizes.max()), 1e-300)])


def without(directions: Array, values: Array) -> Array:
    """Return `values` without their part along orthonormal `directions`."""
    return np.asarray(values - directions @ (directions.T @ values))
