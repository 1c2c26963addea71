"""Follow flat, curved valleys: where a law's terms fade into one another, Newton's steps get short.

A quasi-Newton method with a memory of the valley's direction (L-BFGS, Liu & Nocedal 1989) goes on there. It costs
hundreds of evaluations for each start, so it is only asked where starts disagree.
"""

from __future__ import annotations

import numpy as np

from launch.scaling.laws.base import Law, Logs
from launch.scaling.objective import Array, Objective

MEMORY = 20
MOST_EVALUATIONS = 1000
ROUNDS = 2  # of forgetting the memory: at the kinks of Huber's function it misleads
GAIN = 1e-10  # relative decrease of a round below which the valley has ended


def follow(law: Law, starts: Array, x: Logs, loss: Array, cost: Objective, weights: Array | None) -> Array:
    """Return the ends (B, p) of the valleys in which the starts (B, p) lie."""
    from scipy.optimize import minimize  # only doubtful fits pay for scipy

    observed = np.log(loss)
    counts = np.ones(len(loss)) if weights is None else weights

    def value(theta: Array, scale: float) -> tuple[float, Array]:
        with np.errstate(all="ignore"):
            log_loss, jacobian = law.log_loss(theta[None], x)
            fitted, slope = (
                (log_loss[0], np.ones_like(observed))
                if cost.on == "log"
                else (np.exp(log_loss[0]), np.exp(log_loss[0]))
            )
            residual = fitted - (observed if cost.on == "log" else loss)
            found = float(counts @ cost.rho(residual)) / scale
            gradient = jacobian[0] @ (counts * cost.psi(residual) * slope) / scale
        if not (np.isfinite(found) and np.isfinite(gradient).all()):
            return 1e30, np.zeros_like(theta)
        return found, gradient

    ends = []
    for theta in starts:
        height = max(value(theta, 1.0)[0], 1e-300)
        for _ in range(ROUNDS):
            found = minimize(
                value, theta, (height,), jac=True, method="L-BFGS-B",
                options={"maxcor": MEMORY, "maxfun": MOST_EVALUATIONS, "maxiter": MOST_EVALUATIONS,
                         "ftol": 1e-16, "gtol": 1e-13},
            )  # fmt: skip
            theta, height = found.x, max(height * float(found.fun), 1e-300)
            if found.fun > 1 - GAIN:
                break
        ends.append(theta)
    return np.array(ends)
