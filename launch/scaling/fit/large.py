"""What keeps fits of very many rows within seconds and a bound of memory.

Starts are searched on a part of the rows and the best of them polished on all (`search`). Problems are solved in parts
(`minimise`). A bootstrap begins with one Newton step of every replicate from the optimum of the table: residuals and
Jacobian are those of the table, so that all steps are one matrix product, and the error of a single step falls as 1/n
while intervals narrow as n^-1/2 (Shao & Tu 1995, The Jackknife and Bootstrap, section 9.1).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from launch.scaling.arrays import Array

if TYPE_CHECKING:
    from launch.scaling.fit.problem import Problem

LOG = logging.getLogger("escala.scaling")  # progress: commands show it for large tables
LARGE = 20_000  # rows
THINNED = 4_000  # rows on which starts are searched
LARGEST_BATCH = 4_000_000  # entries of a Jacobian, 32 MB
STEPS_OF_PROFILE = 2  # of each point: the quadratic approximation that it starts from is nearly exact
BLOCK = 10_000  # rows of the products behind the first step of replicates


def is_large(problem: Problem) -> bool:
    """Return whether a problem has so many rows that shortcuts are as good as the whole way."""
    return problem.rows > LARGE


def thin(problem: Problem) -> Problem:
    """Return the problem on a random part of its rows, with those of lowest and highest variables and loss."""
    random = np.random.default_rng(0)
    chosen = random.choice(problem.rows, size=THINNED, replace=False)
    ends = [f(v) for v in (*problem.x.values(), problem.loss) for f in (np.argmin, np.argmax)]
    return problem.thinned(np.unique(np.concatenate([chosen, ends])))


def first_step(problem: Problem, start: Array) -> Array:
    """Return theta (B, p) after one Newton step of each replicate from a common start."""
    assert problem.weights is not None
    theta = start[:1]
    own = problem.loss.ndim == 2  # losses of each replicate
    residual, jacobian = problem.evaluate(theta, problem.target if own else problem.target[None])
    pull, slope = problem.cost.psi(residual), problem.cost.slope(residual)
    size = theta.shape[1]
    gradient, matrix = np.zeros((len(start), size)), np.zeros((len(start), size * size))
    for first in range(0, problem.rows, BLOCK):
        rows = slice(first, first + BLOCK)
        weights = problem.weights[:, rows].astype(float)
        J = jacobian[0][:, rows]
        gradient += (weights * pull[:, rows]) @ J.T
        matrix += (weights * slope[:, rows]) @ np.einsum("in,jn->nij", J, J).reshape(J.shape[1], -1)
    if problem.cost.on == "log":  # the law bends by the same amount in every replicate, to first order
        matrix += problem.law.curvature(theta, problem.x, pull.mean(axis=0, keepdims=True)).reshape(1, -1)
    LOG.info("%s: %d of %d fits to %d rows", problem.law.name, len(start), len(start), problem.rows)
    step = np.linalg.solve(matrix.reshape(-1, size, size), gradient[..., None])[..., 0]
    return np.asarray(start - step)
