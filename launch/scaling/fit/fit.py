"""Fit one law to one table, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.large import LARGEST_BATCH
from launch.scaling.fit.objective import HUBER, Objective
from launch.scaling.fit.problem import Problem
from launch.scaling.fit.search import search
from launch.scaling.laws.base import Centre, Law
from trainer.contract.errors import UserError


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
        """Return each public parameter by its name."""
        public = self.law.public(self.theta[None], self.centre)[0]
        return {name: float(v) for name, v in zip(self.law.params, public, strict=True)}

    @property
    def residuals(self) -> Array:
        """log prediction - log loss for each fitted row."""
        return np.log(self.predict(self.columns)) - np.log(self.loss)

    @property
    def num_params(self) -> int:
        """Return how many parameters were fitted."""
        return len(self.theta)

    def predict(self, columns: Mapping[str, Array]) -> Array:
        """Return the loss at each row of `columns`."""
        return np.asarray(self.predict_draws(columns, self.theta[None])[0])

    def predict_draws(self, columns: Mapping[str, Array], draws: Array | None = None) -> Array:
        """Return the loss (R, n) for each bootstrap replicate (or for the given internal parameters)."""
        theta = self.draws if draws is None else draws
        assert theta is not None, "the fit has no bootstrap replicates"
        needed = {v: np.atleast_1d(np.asarray(columns[v], float)) for v in self.law.variables}
        x = self.centre.logs(needed)
        size = max(1, LARGEST_BATCH // (len(x[self.law.variables[0]]) * self.num_params))
        parts = [self.law.log_loss(theta[k : k + size], x)[0] for k in range(0, max(len(theta), 1), size)]
        return np.asarray(np.exp(np.concatenate(parts)))

    def problem(self, *, loss: Array | None = None, weights: Array | None = None) -> Problem:
        """Return what was minimised, or the same with other losses or weights (R, n): its replicates."""
        x = self.centre.logs(self.columns)
        return Problem(self.law, x, self.loss if loss is None else loss, self.cost, weights)

    def with_draws(self, draws: Array) -> Fitted:
        """Return the same fit with these draws of its parameters (draws, p)."""
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
    every_start: int = 1,
) -> Fitted:
    """Fit `law` to rows of `columns` and `loss` from many starts and keep the best optimum.

    With `every_start` above 1 only every k-th start is taken and the neighbourhood of the best is not searched:
    enough to compare laws.

    Raises `UserError` when there are fewer rows than parameters.
    """
    needed = {v: np.asarray(columns[v], float) for v in law.variables}
    centre = Centre.of(needed, law)
    problem = Problem(law, centre.logs(needed), np.asarray(loss, float), cost)
    size = len(law.params)
    if problem.rows < size:
        raise UserError(
            f"law {law.name!r} has {size} parameters and the table {problem.rows} rows: add runs, or fit a "
            "law with fewer parameters"
        )
    found = search(problem, every_start=every_start)
    return Fitted(
        law=law,
        centre=centre,
        theta=found.theta,
        objective=found.objective,
        cost=cost,
        gradient_norm=found.gradient_norm,
        share_of_starts=found.share,
        columns=needed,
        loss=problem.loss,
    )
