"""Follows a run along its expected curve: how far off it is, and when it has left its band for good.

A single point says little, and points hang together: a run that starts above its curve stays there for a while. So the
deviation of the run, which `trainer/contract/expected.py` describes by modes, is estimated from all points so far (a
Bayesian linear regression, one point at a time: a Kalman filter of a constant state), and two tests look at it:

- level: the estimated deviation now, over how much runs of this kind deviate. It finds what is wrong from the
  beginning.
- drift: a two-sided CUSUM (Page 1954, Biometrika 41) of the one-step errors of prediction, over their standard
  deviations. These are independent however much the points hang together. It finds what changes later.

Their limits are such that one undisturbed run of a hundred raises a false alarm: `launch/scaling/live/limits.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.contract.expected import ExpectedCurve

Array = NDArray[Any]
SLACK, LARGEST = 0.5, 4.0  # of the CUSUM: shifts below it are let go; one batch that is odd counts so much at most
LEFT_BAND = "left_band"  # the event of a run's leaving, once in each of its lives
LEVEL, DRIFT, NORM = "level", "drift", "norm"
OTHERS = "settings or data that the runs behind its expected curve did not have"  # said before any step


@dataclass(frozen=True)
class Off:
    """How a run stands after a logged step. `off` is of this point, in standard deviations, negative below the curve.

    `level` and `drift` are the two tests; `test` names the one that says that the run has left its band.
    """

    step: int
    expected: float  # nats
    off: float
    level: float
    drift: float
    test: str | None


class Follower:
    """Sees the logged steps of one run in order; or of many at once, as arrays of log losses, in simulations.

    After `until` steps the run left data out, so that it no longer reads the batches that `curve` knows.
    """

    def __init__(self, curve: ExpectedCurve, runs: int = 1, until: float = math.inf) -> None:
        self.curve, self._until = curve, until
        self._at, self._modes = np.array(curve.steps), np.array(curve.modes).reshape(-1, len(curve.steps))
        self._covariance = np.eye(len(self._modes))
        self._estimate = np.zeros((runs, len(self._modes)))
        self._up, self._down = np.zeros(runs), np.zeros(runs)

    def see(self, step: int, loss: float) -> Off:
        """Take in one logged step of the run that is followed; a loss that is no positive number changes nothing."""
        mean, _, _ = self.at(step)
        if not (math.isfinite(loss) and loss > 0):
            return Off(step, math.exp(mean), math.nan, math.nan, math.nan, None)
        off, level, drift = (float(v[0]) for v in self.take(step, np.array([math.log(loss)])))
        limits = self.curve.limits
        test = LEVEL if abs(level) > limits.level else DRIFT if abs(drift) > limits.drift else None
        return Off(step, math.exp(mean), off, level, drift, test)

    def take(self, step: float, log_loss: Array) -> tuple[Array, Array, Array]:
        """Take in one step of all runs (R,); return the point's distance and both tests, each (R,)."""
        mean, modes, noise = self.at(step)
        prior, before = float(modes @ modes), self._covariance @ modes
        unexplained = float(modes @ before) + noise**2
        gap = log_loss - mean
        error = gap - self._estimate @ modes
        self._estimate += error[:, None] * before / unexplained
        self._covariance -= np.outer(before, before) / unexplained
        gained = max(prior - float(modes @ self._covariance @ modes), 1e-300)
        off, level = gap / math.sqrt(prior + noise**2), self._estimate @ modes / math.sqrt(gained)
        error /= math.sqrt(unexplained)
        clipped = np.clip(error, -LARGEST, LARGEST)
        self._up = np.maximum(0, self._up + clipped - SLACK)
        self._down = np.maximum(0, self._down - clipped - SLACK)
        return off, level, np.where(self._up >= self._down, self._up, -self._down)

    def final(self) -> tuple[float, float]:
        """Return the log of the final loss that the points so far foretell, and its standard deviation."""
        modes = np.array(self.curve.final_modes)
        mean = self.curve.final_mean + float(self._estimate[0] @ modes)
        return mean, math.sqrt(max(float(modes @ self._covariance @ modes), 0.0))

    def at(self, step: float) -> tuple[float, Array, float]:
        """Return mean, modes (J,) and noise of the log loss after `step` steps."""
        right = min(max(int(np.searchsorted(self._at, step, side="right")), 1), len(self._at) - 1)
        low, high = self._at[right - 1], self._at[right]
        part = min(max((step - low) / (high - low), 0.0), 1.0)
        known = self.curve.batches.get(int(step)) if step <= self._until else None
        noise, mean = self.curve.noise if known is None else self.curve.noise_of_known, self.curve.mean
        between = (1 - part) * self._modes[:, right - 1] + part * self._modes[:, right]
        return (
            (1 - part) * mean[right - 1] + part * mean[right] + (known or 0.0),
            between,
            max((1 - part) * noise[right - 1] + part * noise[right], 1e-6),
        )


class GrowthFollower:
    """Sees the norm of a run's matrices in order of steps: how far its growth is off, in standard deviations."""

    def __init__(self, curve: ExpectedCurve) -> None:
        assert curve.growth is not None
        self._at, self._growth = curve.steps, curve.growth
        self._first: tuple[float, float] | None = None  # the log norm that growth counts from, and what was expected

    def see(self, step: int, norm: float) -> float | None:
        """Return how far off it is; None before growth is counted, and for a norm that is no positive number."""
        if not (math.isfinite(norm) and norm > 0) or step < self._growth.since:
            return None
        mean, value = float(np.interp(step, self._at, self._growth.mean)), math.log(norm)
        if self._first is None:
            self._first = value, mean
        grown, expected = value - self._first[0], mean - self._first[1]
        return (grown - expected) / float(np.interp(step, self._at, self._growth.sd))
