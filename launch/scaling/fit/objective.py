"""What a fit minimises: the sum of Huber's function over residuals of the log loss.

Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.3) use Huber with delta = 1e-3 on log loss; Besiroglu et al. 2024
(arXiv 2404.10102) show that it has to be summed, not averaged, for the stopping rule of a solver to mean the
same at any number of runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from trainer.contract.errors import UserError

SMALLEST_DELTA = 1e-9  # far below it the residuals' rounding decides


@dataclass(frozen=True)
class Objective:
    """Huber's function with threshold `delta`; infinite `delta` gives half the sum of squares.

    `on` says what the residual is: the difference of log losses ("log") or of losses ("loss").
    """

    delta: float = 1e-3
    on: str = "log"

    def __post_init__(self) -> None:
        if not self.delta >= SMALLEST_DELTA:
            raise UserError(
                f"Huber's threshold delta (--delta) is {self.delta:g}; it is {SMALLEST_DELTA:g} or more (1e-3 is "
                "usual, inf gives least squares)"
            )

    def rho(self, residual: Array) -> Array:
        """Return the cost of each residual."""
        size = np.abs(residual)
        near = np.minimum(size, self.delta)
        return near * (size - 0.5 * near)

    def psi(self, residual: Array) -> Array:
        """Return the derivative of the cost."""
        return np.clip(residual, -self.delta, self.delta)

    def weight(self, residual: Array) -> Array:
        """Return psi(r)/r, the weight of iteratively reweighted least squares (Huber 1981, section 7.8)."""
        if np.isinf(self.delta):
            return np.ones_like(residual)
        return self.delta / np.maximum(np.abs(residual), self.delta)

    def slope(self, residual: Array) -> Array:
        """Return the second derivative: 1 inside the threshold, 0 outside."""
        return (np.abs(residual) <= self.delta).astype(float)


HUBER = Objective()
SQUARES = Objective(delta=float("inf"))
