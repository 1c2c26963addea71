"""What is fitted to what: a law, the rows of a table, and the objective."""

from __future__ import annotations

from dataclasses import dataclass
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
        return int(self.loss.shape[-1])

    @cached_property
    def target(self) -> Array:
        """What predictions are compared with: log losses, or losses."""
        return np.log(self.loss) if self.cost.on == "log" else np.asarray(self.loss, float)

    @cached_property
    def counts(self) -> Array:
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
