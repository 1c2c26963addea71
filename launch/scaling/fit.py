"""Fit one law to one table: starts, polish, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from launch.scaling.laws.base import Centre, Law, Logs, WithCorners
from launch.scaling.objective import HUBER, Array, Objective
from launch.scaling.solve import Solutions, minimise
from launch.scaling.valley import follow
from trainer.errors import UserError

SAME_OPTIMUM = 1e-6  # relative difference of objectives below which two starts agree
STEPS_FROM_START = 200  # a start that is not there by then counts as one that disagrees
POLISHED = 8  # of the best starts, so that a slow valley is followed to its end
NEIGHBOURS = 16  # of the best that are tried: robust objectives have optima next to one another
DOUBTFUL = 0.2  # share of starts below which valleys are followed further
JITTER = np.geomspace(0.005, 0.3, NEIGHBOURS)  # how far off they are, in logarithms and exponents
MOST_STEPS = 500  # of the polish
VALLEYS = 4  # of the best starts that are followed where they disagree
ROUNDS, SETTLED = 4, 1e-9  # of looking about the best, until it gains less than this share
ROUNDING = 1e-24  # objective per row that is only rounding: a noise-free surface


@dataclass(frozen=True)
class Fitted:
    """A law at its optimum. `theta` is internal; `values` are the published parameters by name."""

    law: Law
    centre: Centre
    theta: Array  # (p,)
    objective: float
    cost: Objective
    gradient_norm: float
    share_of_starts: float
    columns: Mapping[str, Array]  # the variables of the law, over the fitted rows
    loss: Array
    draws: Array | None = None  # (R, p): bootstrap replicates of theta

    @property
    def values(self) -> dict[str, float]:
        public = self.law.public(self.theta[None], self.centre)[0]
        return {name: float(v) for name, v in zip(self.law.params, public, strict=True)}

    @property
    def residuals(self) -> Array:
        """log prediction - log loss for each fitted row."""
        return np.log(self.predict(self.columns)) - np.log(self.loss)

    @property
    def num_params(self) -> int:
        return len(self.theta)

    def predict(self, columns: Mapping[str, Array]) -> Array:
        """Return the loss at each row of `columns`."""
        return np.asarray(self.predict_draws(columns, self.theta[None])[0])

    def predict_draws(self, columns: Mapping[str, Array], draws: Array | None = None) -> Array:
        """Return the loss (R, n) for each bootstrap replicate (or for the given internal parameters)."""
        theta = self.draws if draws is None else draws
        assert theta is not None, "the fit has no bootstrap replicates"
        needed = {v: np.atleast_1d(np.asarray(columns[v], float)) for v in self.law.variables}
        return np.exp(self.law.log_loss(theta, self.centre.logs(needed))[0])

    def with_draws(self, draws: Array) -> Fitted:
        return replace(self, draws=draws)

    def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Return percentile intervals of the published parameters."""
        assert self.draws is not None, "the fit has no bootstrap replicates"
        public = self.law.public(self.draws, self.centre)
        low, high = np.quantile(public, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return {n: (float(a), float(b)) for n, a, b in zip(self.law.params, low, high, strict=True)}


def fit_law(
    law: Law,
    columns: Mapping[str, Array],
    loss: Array,
    cost: Objective = HUBER,
    *,
    weights: Array | None = None,
    every_start: int = 1,
) -> Fitted:
    """Fit `law` to rows of `columns` and `loss` from many starts and keep the best optimum.

    With `every_start` above 1 only every k-th start is taken and the neighbourhood of the best is not searched:
    enough to compare laws.

    Raises `UserError` when there are fewer rows than parameters.
    """
    needed = {v: np.asarray(columns[v], float) for v in law.variables}
    centre = Centre.of(needed, law)
    x = centre.logs(needed)
    start = law.starts(x, loss)[::every_start]
    if len(loss) < start.shape[1]:
        raise UserError(
            f"law {law.name!r} has {start.shape[1]} parameters and the table {len(loss)} rows: add runs, or fit a "
            "law with fewer parameters"
        )
    corners = law.corners(x, loss) if every_start == 1 and isinstance(law, WithCorners) else start[:0]
    everywhere = np.concatenate([start, corners])
    found = minimise(law, everywhere, x, loss, cost, weights=weights, max_steps=STEPS_FROM_START)
    heights = found.objective[: len(start)]
    ordered = found.theta[np.argsort(found.objective)]
    best = _polish(law, ordered[:POLISHED], x, loss, cost, weights)
    if every_start == 1 and _share(heights, best, len(loss)) >= DOUBTFUL:
        best = _better(best, _polish(law, _around(best.theta[0]), x, loss, cost, weights))
    elif every_start == 1:
        best = _search_further(law, start, ordered, best, x, loss, cost, weights)
    return Fitted(
        law=law,
        centre=centre,
        theta=best.theta[0],
        objective=float(best.objective[0]),
        cost=cost,
        gradient_norm=float(best.gradient_norm[0]),
        share_of_starts=_share(heights, best, len(loss)),
        columns=needed,
        loss=np.asarray(loss, float),
    )


def _search_further(
    law: Law,
    start: Array,
    ordered: Array,
    best: Solutions,
    x: Logs,
    loss: Array,
    cost: Objective,
    weights: Array | None,
) -> Solutions:
    """Look for a better optimum where starts disagree: from other starts, along valleys, about the best."""
    shaken = start + np.random.default_rng(0).standard_normal(start.shape)
    more = minimise(law, shaken, x, loss, cost, weights=weights, max_steps=STEPS_FROM_START)
    far = np.concatenate([ordered[:VALLEYS], more.theta[np.argsort(more.objective)[:VALLEYS]]])
    for _ in range(ROUNDS):
        before = best.objective[0]
        near = np.concatenate([best.theta, _around(best.theta[0])[::5], far])
        best = _better(best, _polish(law, follow(law, near, x, loss, cost, weights), x, loss, cost, weights))
        if best.objective[0] > before * (1 - SETTLED):
            break
        far = far[:0]
    return best


def _polish(law: Law, start: Array, x: Logs, loss: Array, cost: Objective, weights: Array | None) -> Solutions:
    """Follow each start to its end and return the best solution, as a batch of one."""
    found = minimise(law, start, x, loss, cost, weights=weights, max_steps=MOST_STEPS)
    best = slice(int(np.argmin(found.objective)), int(np.argmin(found.objective)) + 1)
    return Solutions(found.theta[best], found.objective[best], found.gradient_norm[best])


def _better(first: Solutions, second: Solutions) -> Solutions:
    return second if second.objective[0] < first.objective[0] else first


def _share(heights: Array, best: Solutions, rows: int) -> float:
    """Return the share of the starts' objectives that are the best one."""
    return float(np.mean(heights <= best.objective[0] * (1 + SAME_OPTIMUM) + ROUNDING * rows))


def _around(theta: Array) -> Array:
    """Return starts about one solution."""
    return np.asarray(theta + JITTER[:, None] * np.random.default_rng(0).standard_normal((NEIGHBOURS, len(theta))))
