"""The parabola through the trials of one setting at one size: log loss = level + c (x - best)^2, x in octaves.

Three to five noisy runs leave much open, so `best` and c are held as a posterior on a grid and not as one fit. The
error of a trial is noise and what the loss is not a parabola, a share of its rise: far trials say little of where the
minimum is, and near ones little where the noise is large. A run that diverged says that the minimum is below its value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array

NOISE = 0.002  # standard deviation of one run's log loss: mid of the .1 to .5 % of seeds
MISFIT = 0.2  # of a trial's rise: by so much a loss surface leaves its parabola
CURVATURES = np.geomspace(2e-4, 5e-2, 25)  # log loss per octave squared, all alike likely in their logarithms
BESTS = 141
BEYOND = 2.0  # octaves that the minimum may lie outside what was tried


@dataclass(frozen=True)
class Trial:
    """A run of one size. `x`: log2 of its setting over the sweep's own. `log_loss`: infinite where it diverged."""

    x: float
    log_loss: float


@dataclass(frozen=True)
class Parabola:
    """What trials say of the minimum.

    `best`: the value of least expected regret, in octaves; `error`: standard deviation of the minimum about it;
    `curvature`: of log loss per octave squared; `regret`: log loss that is expected to be lost at `best`.
    """

    best: float
    error: float
    curvature: float
    regret: float

    def rise(self, x: float) -> float:
        """Return by how much log loss at x lies above the minimum."""
        return self.curvature * (x - self.best) ** 2


def finite(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that did not diverge, by x."""
    return sorted((t for t in trials if np.isfinite(t.log_loss)), key=lambda t: t.x)


def ceiling(trials: Sequence[Trial]) -> float:
    """Return the lowest value that diverged; infinite where none did."""
    return min((t.x for t in trials if not math.isfinite(t.log_loss)), default=math.inf)


def fit_parabola(trials: Sequence[Trial]) -> Parabola | None:
    """Return what the trials say; None where none came to an end."""
    good = finite(trials)
    if not good:
        return None
    x, y = np.array([t.x for t in good]), np.array([t.log_loss for t in good])
    highest = min(x[-1] + BEYOND, max(ceiling(trials), x[0] - BEYOND + 0.1))
    best = np.linspace(x[0] - BEYOND, highest, BESTS)[:, None]
    rise = CURVATURES[:, None] * (x - best[:, :, None]) ** 2  # (B, C, n)
    weights = 1 / (NOISE**2 + (MISFIT * rise) ** 2)
    off = y - rise
    level = (weights * off).sum(-1) / weights.sum(-1)
    log_p = 0.5 * (np.log(weights).sum(-1) - np.log(weights.sum(-1)))
    log_p -= 0.5 * (weights * (off - level[:, :, None]) ** 2).sum(-1)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    curvature = float((p * CURVATURES).sum())
    choice = float((p * CURVATURES * best).sum()) / curvature
    error = math.sqrt(float((p * (best - choice) ** 2).sum()))
    return Parabola(choice, error, curvature, float((p * CURVATURES * (best - choice) ** 2).sum()))


def error_with(fit: Parabola, xs: Sequence[float]) -> float:
    """Return the standard error of the minimum that trials at these x would have, were the parabola the true one."""
    x = np.array(xs) - fit.best
    weights = 1 / (NOISE**2 + (MISFIT * fit.curvature * x**2) ** 2)
    columns = np.stack([np.ones_like(x), x, x**2], axis=1)
    information: Array = (columns * weights[:, None]).T @ columns
    information[2, 2] += 1 / fit.curvature**2  # the curvature is known to a factor of e or so
    return float(np.sqrt(np.linalg.pinv(information, hermitian=True)[1, 1])) / (2 * fit.curvature)
