"""The limits at which a run has left its band: one undisturbed run of a hundred reaches either."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.stats import t as student

from trainer.contract.expected import BAND, ExpectedCurve, Limits
from trainer.contract.leaving import SLACK, Follower

FALSE_ALARMS = 0.01  # of undisturbed runs, by either test
SIMULATED, MOST_STEPS = 8000, 300  # 27 runs lie beyond a limit, which is then certain to a few percent


def share_of_each(tests: int) -> float:
    """Return the share of undisturbed runs that each of so many tests may report."""
    return FALSE_ALARMS / tests


def limits_of(curve: ExpectedCurve, freedom: float, logged_every: int) -> Limits:
    """Simulate undisturbed runs and return what a test's share of the false alarms exceeds by each of the two.

    A run's deviation is drawn with the tails of so many degrees of freedom. Deterministic.
    """
    random = np.random.default_rng(0)
    wide = float(student.ppf(0.975, freedom)) / BAND
    tails = np.sqrt(freedom / random.chisquare(freedom, SIMULATED)) / wide
    draws = random.standard_normal((SIMULATED, len(curve.modes))) * tails[:, None]
    follower = Follower(dataclasses.replace(curve, limits=Limits(np.inf, np.inf)), SIMULATED)
    most_level, most_drift = np.zeros(SIMULATED), np.zeros(SIMULATED)
    logged = max(1, curve.total_steps // logged_every)
    steps = np.linspace(logged_every, curve.total_steps, min(logged, MOST_STEPS))
    for step in steps:
        mean, modes, noise = follower.at(step)
        _, level, drift = follower.take(step, mean + draws @ modes + noise * random.standard_normal(SIMULATED))
        most_level, most_drift = np.maximum(most_level, np.abs(level)), np.maximum(most_drift, np.abs(drift))
    quantile = 1 - share_of_each(2 if curve.growth is None else 3)
    # A CUSUM passes h in about n exp(-2 SLACK h) of the runs of n steps: what longer runs add.
    longer = np.log(logged / len(steps)) / (2 * SLACK)
    return Limits(
        level=float(np.quantile(most_level, quantile)),
        drift=float(np.quantile(most_drift, quantile) + longer),
    )
