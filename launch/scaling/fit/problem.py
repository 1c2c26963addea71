"""What is fitted to what: a law, the rows of a table, and the objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.objective import Objective
from launch.scaling.laws.base import Law, Logs


@dataclass(frozen=True)
class Problem:
    """Minimise sum_i weights_i rho(log prediction_i - log loss_i) over theta.

    `x` holds centred logarithms of the variables over n rows; `loss` is (n,), or (B, n) where each of B problems has
    its own losses; so is `weights`, where None means one each.
    """

    law: Law
    x: Logs
    loss: Array
    cost: Objective
    weights: Array | None = None

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return int(self.loss.shape[-1])

    @property
    def replicated(self) -> bool:
        """Whether each problem has weights of its own: replicates of a bootstrap."""
        return self.weights is not None and self.weights.ndim == 2

    def part(self, which: slice) -> Problem:
        """Return these of B problems."""
        loss = self.loss[which] if self.loss.ndim == 2 else self.loss
        weights = self.weights
        if weights is not None and weights.ndim == 2:
            weights = weights[which].astype(float)
        return replace(self, loss=loss, weights=weights)

    def thinned(self, rows: Array) -> Problem:
        """Return the same problem on some of its rows; it has one loss and one weight a row."""
        weights = None if self.weights is None else self.weights[rows]
        return replace(self, x={v: values[rows] for v, values in self.x.items()}, loss=self.loss[rows], weights=weights)

    @cached_property
    def target(self) -> Array:
        """What predictions are compared with: log losses, or losses."""
        return np.log(self.loss) if self.cost.on == "log" else np.asarray(self.loss, float)

    @cached_property
    def counts(self) -> Array:
        """Return each row's weight; ones without weights."""
        return np.ones(self.rows) if self.weights is None else self.weights

    def evaluate(self, theta: Array, target: Array) -> tuple[Array, Array]:
        """Return residuals (B, n) against `target` and their Jacobian (B, p, n)."""
        log_loss, jacobian = self.law.log_loss(theta, self.x)
        if self.cost.on == "log":
            return log_loss - target, jacobian
        predicted = np.exp(log_loss)
        return predicted - target, jacobian * predicted[:, None, :]

    def sum(self, residual: Array, counts: Array) -> Array:
        """Return the objective (B,); infinite where a prediction is no number, so that no search prefers it."""
        cost = np.einsum("bn,bn->b", counts, self.cost.rho(residual))
        return np.where(np.isfinite(cost), cost, np.inf)

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Return the objective and its gradient (p,) at one theta (p,), for one table."""
        residual, jacobian = self.evaluate(theta[None], self.target)
        pull = self.counts * self.cost.psi(residual[0])
        return float(self.sum(residual, self.counts[None])[0]), np.asarray(jacobian[0] @ pull)
