"""Starts by variable projection (Golub & Pereyra 1973): for fixed exponents a sum of powers is linear.

On a grid of exponents the coefficients follow from weighted least squares, which only needs inner products of
columns, so that thousands of grid points cost a few small matrix products.
"""

from __future__ import annotations

import itertools

import numpy as np

from launch.scaling.arrays import Array

NUM_STARTS = 24
GRID_2D = np.geomspace(0.03, 1.6, 32)
GRID_1D = np.geomspace(0.005, 3.0, 160)
OVER_RANGE = np.array([-20.0, -3.0, 8.0])  # exponents over the range of x, see `_beyond`
OVER_GAP = 12.0  # and over the gap between the last two places
TINY = 1e-9  # share of the mean loss below which a term counts as absent


def power_starts(logs: list[Array], loss: Array, *, floor: bool, num: int = NUM_STARTS) -> tuple[Array, Array]:
    """Return starts (B, p) and corners (C, p): [log E,] then (log coefficient, exponent) of each variable.

    Half of the starts are the best of the grid, the others are spread over all of it where every term takes part, so
    that the share of starts that meet in one optimum says something. Corners are places that few starts reach: the
    best without one of the terms, and the best with each of the exponents beyond the grid.
    """
    usual = GRID_1D if len(logs) == 1 else GRID_2D
    grids = [np.concatenate([usual, _beyond(x)]) for x in logs]
    heights = [np.max(-np.outer(grid, x), axis=1) for grid, x in zip(grids, logs, strict=True)]
    bases = [np.exp(-np.outer(g, x) - h[:, None]) for g, x, h in zip(grids, logs, heights, strict=True)]  # (G, n) each
    index = np.array(list(itertools.product(range(len(grids[0])), repeat=len(logs))))
    gram, moment = _normal_equations(bases, index, loss, floor)
    coefficients, cost = _non_negative(gram, moment)
    inside = (index < len(usual)).all(axis=1)
    complete = np.flatnonzero((coefficients > 0).all(axis=1) & inside)
    if len(complete) < num:  # hardly any exponents use every term: start from whatever is best
        complete = np.flatnonzero(inside)
    masks = [inside & (c == 0) for c in coefficients.T]
    masks += [index[:, k] == i for k in range(len(logs)) for i in range(len(usual), len(grids[0]))]
    corners = [np.flatnonzero(mask)[np.argmin(cost[mask])] for mask in masks if mask.any()]
    starts = complete[_best_and_spread(cost[complete], num)]
    chosen = np.append(starts, np.array(corners, int))
    smallest = TINY * float(np.mean(loss))
    log_terms = np.log(np.maximum(coefficients[chosen], smallest))
    columns = [log_terms[:, :1]] if floor else []
    for k in range(len(logs)):
        picked = index[chosen, k]
        columns += [(log_terms[:, int(floor) + k] - heights[k][picked])[:, None], grids[k][picked, None]]
    theta = np.concatenate(columns, axis=1)
    return theta[: len(starts)], theta[len(starts) :]


def _beyond(x: Array) -> Array:
    """Return exponents with which a term serves the runs at one end: many of them, few, or the last one alone."""
    places = np.unique(np.round(x, 6))
    if len(places) < 2:
        return np.concatenate([OVER_RANGE, [-OVER_GAP, OVER_GAP]])
    low, high = places[1] - places[0], places[-1] - places[-2]
    return np.concatenate([OVER_RANGE / (places[-1] - places[0]), [-OVER_GAP / high, OVER_GAP / low]])


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
