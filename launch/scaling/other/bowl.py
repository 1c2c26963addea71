"""A bowl through trials of settings: quadratic around an optimum that moves with the sizes of a run as powers of them.

    log loss = level of the cell + exp(s . x) (z - O x)' H (z - O x),   x = (1, log N, log D, ...), all but 1 centred

z are the logarithms of one setting or of two, H is symmetric, O has a row of exponents for each setting. Every cell
has its own level and all share H, whose size may grow or shrink with x. Far from the optimum losses rise faster than a
parabola, above all on the side where runs diverge (Wortsman et al. 2023, arXiv 2309.14322), so a window holds the fit
to trials near it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array, robust_sd

ROUNDS = 8  # of choosing rows and weights anew; mostly three suffice
STEPS = 30  # of Gauss-Newton in each
FAR = 3.0  # times the window: trials whose measured loss lies so far above the floor of their cell went wrong
TURN = 2.0  # robust standard deviations at which Huber's weights begin to fall
FEWEST_CELLS_FOR_SCALE = 6


@dataclass(frozen=True)
class Trials:
    """Settings z (n, k), features x (n, 1 + v) with ones first, log losses (n,), and the cell of each trial (n,)."""

    z: Array
    x: Array
    log_loss: Array
    cell: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cell)

    def select(self, keep: Array) -> Trials:
        """Return the trials for which `keep` holds, with their cells numbered anew."""
        cell = np.unique(self.cell[keep], return_inverse=True)[1].ravel()
        return Trials(self.z[keep], self.x[keep], self.log_loss[keep], cell)

    @property
    def floor(self) -> Array:
        """The lowest log loss of each trial's cell (n,)."""
        lowest = np.full(self.cell.max() + 1, np.inf)
        np.minimum.at(lowest, self.cell, self.log_loss)
        return np.asarray(lowest[self.cell])


@dataclass(frozen=True)
class Bowl:
    """O (k, 1 + v), H (k, k) and s (v,)."""

    optimum: Array
    curvature: Array
    scale: Array

    def excess(self, trials: Trials) -> Array:
        """Return by how much log loss is above that of the optimum (n,)."""
        d = trials.z - trials.x @ self.optimum.T
        return np.asarray(np.exp(trials.x[:, 1:] @ self.scale) * np.einsum("ni,ij,nj->n", d, self.curvature, d))

    @property
    def has_minimum(self) -> bool:
        """Return whether it curves upwards in every direction."""
        return bool(np.linalg.eigvalsh(self.curvature)[0] > 0)


@dataclass(frozen=True)
class Windowed:
    """A bowl fitted to the trials within a window of log loss above it, and what its intervals need.

    `gram` (G, p, p) and `slope` (G, p) are each cell's part of the normal equations at the optimum, whose first
    k (1 + v) parameters are O, row by row. `squares` is the weighted sum of squared residuals.
    """

    window: float
    bowl: Bowl
    trials: Trials
    gram: Array
    slope: Array
    squares: float

    @property
    def freedom(self) -> int:
        """How many residuals are free, levels and parameters deducted; 1 at least."""
        return max(1, len(self.trials) - len(self.gram) - int(self.gram.shape[1]))

    @property
    def variance(self) -> float:
        """The variance of one trial's log loss about the bowl, wild trials by their Huber weight."""
        return self.squares / self.freedom

    def without_each(self) -> Array:
        """Return O (G, k, 1 + v) with one cell left out at a time: one Gauss-Newton step from the optimum."""
        gram, slope = self.gram.sum(axis=0) - self.gram, self.slope.sum(axis=0) - self.slope
        step = np.einsum("rij,rj->ri", np.linalg.pinv(gram, hermitian=True), slope)
        size = self.bowl.optimum.size
        return np.asarray(self.bowl.optimum + step[:, :size].reshape(len(gram), *self.bowl.optimum.shape))


def fit_bowl(every: Trials, window: float, start: Bowl | None = None) -> Windowed | None:
    """Fit a bowl to the trials that it puts within `window` of its floor; None where they have no minimum.

    Rows are chosen by the fitted bowl, not by their own losses, whose noise would pick the lucky ones.
    """
    near = every.log_loss - every.floor < FAR * window
    chosen = near & ((every.log_loss - every.floor if start is None else start.excess(every)) < window)
    bowl = start
    for _ in range(ROUNDS):
        usable = chosen & _enough(every, chosen)
        if not usable.any():
            return None
        trials = every.select(usable)
        bowl = _linear(trials) if bowl is None else bowl
        if bowl is None:
            return None
        bowl, weights = _solve(trials, bowl)
        if not bowl.has_minimum:
            return None
        again = near & (bowl.excess(every) < window)
        if np.array_equal(again, chosen):
            break
        chosen = again
    return None if bowl is None else _windowed(window, bowl, trials, weights)


def _enough(trials: Trials, chosen: Array) -> Array:
    """Return which trials (n,) are in a cell of which three or more different settings are chosen."""
    settings = np.unique(np.round(trials.z, 6), axis=0, return_inverse=True)[1].ravel()
    pairs = np.unique(np.stack([trials.cell[chosen], settings[chosen]]), axis=1)
    return np.asarray(np.bincount(pairs[0], minlength=trials.cell.max() + 1)[trials.cell] >= 3)


def _centred(values: Array, cell: NDArray[np.int64], weights: Array) -> Array:
    """Return values (n, p) less the weighted mean of their cell: that fits every cell's level."""
    total = np.bincount(cell, weights)
    means = np.stack([np.bincount(cell, weights * column) / total for column in values.T], axis=1)
    return np.asarray(values - means[cell])


def _pairs(k: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(k) for j in range(i, k)]


def _linear(trials: Trials) -> Bowl | None:
    """Start from one curvature for all cells: then the bowl is a linear regression on z z' and z x'."""
    k, width = trials.z.shape[1], trials.x.shape[1]
    columns = [(1 if i == j else 2) * trials.z[:, i] * trials.z[:, j] for i, j in _pairs(k)]
    columns += [trials.z[:, i] * trials.x[:, j] for i in range(k) for j in range(width)]
    values = np.stack([*columns, trials.log_loss], axis=1)
    values = _centred(values, trials.cell, np.ones(len(trials)))
    solved = np.linalg.lstsq(values[:, :-1], values[:, -1], rcond=None)[0]
    curvature = np.zeros((k, k))
    for value, (i, j) in zip(solved, _pairs(k), strict=False):
        curvature[i, j] = curvature[j, i] = value
    if not np.linalg.eigvalsh(curvature)[0] > 0:
        return None
    slopes = solved[len(_pairs(k)) :].reshape(k, width)
    return Bowl(-0.5 * np.linalg.solve(curvature, slopes), curvature, np.zeros(width - 1))


def _solve(trials: Trials, bowl: Bowl) -> tuple[Bowl, Array]:
    """Return the bowl of least squares with Huber's weights (n,), by damped Gauss-Newton with analytic derivatives."""
    weights, damping = np.ones(len(trials)), 1e-6
    off = _residuals(trials, bowl, weights)
    for _ in range(STEPS):
        spread = robust_sd(off)
        weights = np.minimum(1.0, TURN * spread / np.maximum(np.abs(off), 1e-300)) if spread > 0 else weights
        off = _residuals(trials, bowl, weights)
        J = _centred(_jacobian(trials, bowl), trials.cell, weights)
        gram, slope = J.T @ (J * weights[:, None]), J.T @ (weights * off)
        before = float(weights @ off**2)
        for _ in range(12):
            step = np.linalg.lstsq(gram + damping * np.diag(np.diag(gram) + 1e-300), slope, rcond=None)[0]
            moved = _moved(bowl, step)
            with np.errstate(over="ignore", invalid="ignore"):  # a step so far that it overflows is not taken
                after = _residuals(trials, moved, weights)
                total = float(weights @ after**2)
            if total <= before:
                bowl, off, damping = moved, after, max(damping / 10, 1e-12)
                break
            damping *= 10
        else:
            break
        if before - float(weights @ off**2) <= 1e-10 * before:
            break
    return bowl, weights


def _residuals(trials: Trials, bowl: Bowl, weights: Array) -> Array:
    off = (trials.log_loss - bowl.excess(trials))[:, None]
    return np.asarray(_centred(off, trials.cell, weights)[:, 0])


def _jacobian(trials: Trials, bowl: Bowl) -> Array:
    """Return the derivatives of the excess (n, p) by O, by the upper triangle of H, and by s where it is fitted."""
    d = trials.z - trials.x @ bowl.optimum.T
    scale = np.exp(trials.x[:, 1:] @ bowl.scale)
    pull = -2 * scale[:, None] * (d @ bowl.curvature)
    by_optimum = [pull[:, i, None] * trials.x for i in range(d.shape[1])]
    by_curvature = [(scale * (1 if i == j else 2) * d[:, i] * d[:, j])[:, None] for i, j in _pairs(d.shape[1])]
    by_scale = bowl.excess(trials)[:, None] * trials.x[:, 1:] * _scale_is_fitted(trials)
    return np.concatenate([*by_optimum, *by_curvature, by_scale], axis=1)


def _scale_is_fitted(trials: Trials) -> bool:
    return int(trials.cell.max()) + 1 >= FEWEST_CELLS_FOR_SCALE


def _moved(bowl: Bowl, step: Array) -> Bowl:
    size, pairs = bowl.optimum.size, _pairs(len(bowl.curvature))
    curvature = bowl.curvature.copy()
    for value, (i, j) in zip(step[size:], pairs, strict=False):
        curvature[i, j] += value
        curvature[j, i] = curvature[i, j]
    optimum = bowl.optimum + step[:size].reshape(bowl.optimum.shape)
    return replace(bowl, optimum=optimum, curvature=curvature, scale=bowl.scale + step[size + len(pairs) :])


def _windowed(window: float, bowl: Bowl, trials: Trials, weights: Array) -> Windowed:
    J = _centred(_jacobian(trials, bowl), trials.cell, weights)
    off = _residuals(trials, bowl, weights)
    gram = np.zeros((int(trials.cell.max()) + 1, J.shape[1], J.shape[1]))
    slope = np.zeros(gram.shape[:2])
    np.add.at(gram, trials.cell, J[:, :, None] * (J * weights[:, None])[:, None, :])
    np.add.at(slope, trials.cell, J * (weights * off)[:, None])
    return Windowed(window, bowl, trials, gram, slope, float(weights @ off**2))
