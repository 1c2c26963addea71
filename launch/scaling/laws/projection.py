"""Starts by variable projection (Golub & Pereyra 1973): for fixed exponents a sum of powers is linear.

On a grid of exponents the coefficients follow from weighted least squares, which only needs inner products of
columns, so that thousands of grid points cost a few small matrix products.
"""

from __future__ import annotations

import itertools

import numpy as np

from launch.scaling.objective import Array

NUM_STARTS = 24
GRID_2D = np.geomspace(0.03, 1.6, 32)
GRID_1D = np.geomspace(0.005, 3.0, 160)
BEYOND = np.array([-40.0, -12.0, -4.0, -1.2, 4.0, 12.0, 40.0])  # over the range of x: terms that serve one end alone
TINY = 1e-9  # share of the mean loss below which a term counts as absent


def power_starts(logs: list[Array], loss: Array, *, floor: bool, num: int = NUM_STARTS) -> Array:
    """Return starts (B, p) for [log E,] then (log coefficient, exponent) of each variable.

    Half of `num` are the best of the grid, the others are spread over all of it where every term takes part, so
    that the share of starts that meet in one optimum says something. On top come the corners that few starts reach:
    the best without one of the terms, and the best with one exponent beyond the grid, on either side.
    """
    usual = GRID_1D if len(logs) == 1 else GRID_2D
    grids = [np.concatenate([usual, BEYOND / max(np.ptp(x), 0.1)]) for x in logs]
    bases = [np.exp(-np.outer(grid, x)) for grid, x in zip(grids, logs, strict=True)]  # (G, n) each
    index = np.array(list(itertools.product(range(len(usual) + len(BEYOND)), repeat=len(logs))))
    gram, moment = _normal_equations(bases, index, loss, floor)
    coefficients, cost = _non_negative(gram, moment)
    inside = (index < len(usual)).all(axis=1)
    complete = np.flatnonzero((coefficients > 0).all(axis=1) & inside)
    if len(complete) < num:  # hardly any exponents use every term: start from whatever is best
        complete = np.flatnonzero(inside)
    chosen = np.append(complete[_best_and_spread(cost[complete], num)], _corners(coefficients, cost, index, len(usual)))
    smallest = TINY * float(np.mean(loss))
    log_terms = np.log(np.maximum(coefficients[chosen], smallest))
    columns = [log_terms[:, :1]] if floor else []
    for k in range(len(logs)):
        columns += [log_terms[:, int(floor) + k, None], grids[k][index[chosen, k], None]]
    return np.concatenate(columns, axis=1)


def _corners(coefficients: Array, cost: Array, index: Array, usual: int) -> list[int]:
    """Return the best grid point without each term, and with each exponent negative or large."""
    inside = (index < usual).all(axis=1)
    masks = [inside & (c == 0) for c in coefficients.T]
    masks += [sides == side for sides in _side(index, usual).T for side in (-1, 1)]
    found = [np.flatnonzero(mask) for mask in masks]
    return [int(f[np.argmin(cost[f])]) for f in found if len(f)]


def _side(index: Array, usual: int) -> Array:
    """Return -1 for exponents below the usual grid, 1 for those above, 0 inside."""
    return np.concatenate([np.zeros(usual), np.sign(BEYOND)])[index]


def _normal_equations(bases: list[Array], index: Array, loss: Array, floor: bool) -> tuple[Array, Array]:
    """Return Gram matrices (G, m, m) and moments (G, m) of the columns [1,] basis_1, ... weighted with 1/loss.

    Dividing by the loss makes the linear residual that of the log loss to first order.
    """
    columns = [np.full((1, len(loss)), 1.0)] if floor else []
    columns = [c / loss for c in [*columns, *bases]]
    picks = ([np.zeros(len(index), int)] if floor else []) + list(index.T)
    size = len(columns)
    gram = np.empty((len(index), size, size))
    moment = np.empty((len(index), size))
    for i in range(size):
        moment[:, i] = columns[i].sum(axis=1)[picks[i]]
        for j in range(i, size):
            products = columns[i] @ columns[j].T
            gram[:, i, j] = gram[:, j, i] = products[picks[i], picks[j]]
    return gram, moment


def _non_negative(gram: Array, moment: Array) -> tuple[Array, Array]:
    """Solve every small least-squares problem with coefficients >= 0 by trying all supports."""
    size = moment.shape[1]
    best = np.zeros_like(moment)
    cost = np.full(len(moment), np.inf)
    ridge = 1e-13 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(size)
    for support in _supports(size):
        keep = np.array(support)
        sub = (gram + ridge)[:, keep[:, None], keep]
        solved = np.linalg.solve(sub, moment[:, keep, None])[..., 0]
        gain = -np.einsum("gi,gi->g", solved, moment[:, keep])
        better = (gain < cost) & (solved >= 0).all(axis=1)
        best[better] = 0.0
        best[np.ix_(better, keep)] = solved[better]
        cost[better] = gain[better]
    return best, cost


def _supports(size: int) -> list[tuple[int, ...]]:
    return [s for count in range(size, 0, -1) for s in itertools.combinations(range(size), count)]


def _best_and_spread(cost: Array, num: int) -> Array:
    order = np.argsort(cost)
    best = order[: num // 2]
    spread = np.linspace(0, len(cost) - 1, num - len(best)).astype(int)
    return np.unique(np.concatenate([best, spread]))
