"""Follow flat, curved valleys: where a law's terms fade into one another, Newton's steps get short.

A quasi-Newton method with a memory of the valley's direction (L-BFGS, Liu & Nocedal 1989) goes on there. It costs
hundreds of evaluations for each start, so it is only asked where starts disagree.
"""

from __future__ import annotations

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.problem import Problem

MEMORY = 20
ROUNDS = 2  # of forgetting the memory: at the kinks of Huber's function it misleads
GAIN = 1e-10  # relative decrease of a round below which the valley has ended


def follow(problem: Problem, starts: Array, evaluations: int) -> Array:
    """Return the ends (B, p) of the valleys in which the starts (B, p) lie, after so many evaluations at most."""
    from scipy.optimize import minimize  # only doubtful fits pay for scipy

    def value(theta: Array, scale: float) -> tuple[float, Array]:
        with np.errstate(all="ignore"):
            found, gradient = problem.value_and_gradient(theta)
        if not (np.isfinite(found) and np.isfinite(gradient).all()):
            return 1e30, np.zeros_like(theta)
        return found / scale, gradient / scale

    ends = []
    for theta in starts:
        height = max(value(theta, 1.0)[0], 1e-300)
        for _ in range(ROUNDS):
            found = minimize(
                value, theta, (height,), jac=True, method="L-BFGS-B",
                options={"maxcor": MEMORY, "maxfun": evaluations // ROUNDS, "ftol": 1e-16, "gtol": 1e-13},
            )  # fmt: skip
            theta, height = found.x, max(height * float(found.fun), 1e-300)
            if found.fun > 1 - GAIN:
                break
        ends.append(theta)
    return np.array(ends)
