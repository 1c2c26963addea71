"""One interval for a quantity that a decision hangs on, and its parts: noise, law, and leaving runs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, Law
from launch.scaling.trust.quantiles import Z_95, student_95
from launch.scaling.trust.replicates import DecisionDraws

Ends = tuple[float, float]
Asked = Callable[[Law, Array, Centre], Array]  # parameters (B, p) of a law -> a logarithm (B,)
EXPECTED = 2.0  # times its noise that a quantity may move over left-out groups before the interval widens
EXTREME = 700.0  # of a logarithm


@dataclass(frozen=True)
class Spread:
    """A quantity in logarithms: 95 % `interval`, and what each part alone would make of it."""

    value: float
    interval: Ends
    noise: Ends  # replicates of the law that was fitted
    law: Ends  # optima of all laws that hold-out cannot tell apart
    left_out: Ends  # fits without one group each
    stretch: float  # of the draws' half width by what left-out groups add


def spread_of(draws: DecisionDraws, asked: Asked, *, scatter: float = 0.0) -> Spread:
    """Return the interval of a quantity over all draws, widened where left-out groups move it more than noise does.

    With `scatter` the interval is that of one new run, whose log loss has this standard deviation about the law.
    """
    point = draws.point
    if not len(point.draws):
        alone = float(_clipped(asked(point.law, point.theta[None], point.centre))[0])
        return Spread(alone, *4 * ((alone, alone),), stretch=1.0)
    values = [_clipped(asked(r.law, r.draws, r.centre)) for r in draws.laws]
    weights = np.concatenate([np.full(len(v), r.share / len(v)) for v, r in zip(values, draws.laws, strict=True)])
    optima = [float(_clipped(asked(r.law, r.theta[None], r.centre))[0]) for r in draws.laws]
    value = optima[0]
    every = np.concatenate(values)
    low, high = quantiles(every + scatter * np.random.default_rng(0).standard_normal(len(every)), weights)
    moved = {
        by: _clipped(asked(point.law, np.array([x.theta for x in draws.known(by)]), point.centre))
        for by in dict.fromkeys(x.by for x in draws.left_out)
        if draws.known(by)
    }
    extra = max([_widening(m, (high - low) / 2) for m in moved.values()], default=0.0)
    without = np.concatenate([[value], *moved.values()])
    return Spread(
        value,
        (value - float(np.hypot(max(value - low, 0.0), extra)), value + float(np.hypot(max(high - value, 0.0), extra))),
        quantiles(values[0], np.ones(len(values[0]))),
        (min(optima), max(optima)),
        (float(without.min()), float(without.max())),
        float(np.hypot(extra, (high - low) / 2) / max((high - low) / 2, 1e-300)),
    )


def quantiles(values: Array, weights: Array, level: float = 0.95) -> Ends:
    """Return the ends of the central interval of weighted values (R,)."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    places = (reached - weights[order] / 2) / reached[-1]
    low, high = np.interp([(1 - level) / 2, (1 + level) / 2], places, values[order])
    return float(low), float(high)


def _widening(moved: Array, half: float) -> float:
    """Return the half width that a jackknife over groups adds (Efron & Tibshirani 1993, section 11.5)."""
    groups = len(moved)
    if groups < 2:
        return 0.0
    sd = float(np.sqrt((groups - 1) / groups * np.sum((moved - moved.mean()) ** 2)))
    return float(np.sqrt(max(sd**2 - (EXPECTED * half / Z_95) ** 2, 0.0))) * student_95(max(groups - 1, 3))


def _clipped(values: Array) -> Array:
    return np.asarray(np.clip(np.nan_to_num(values, nan=0.0), -EXTREME, EXTREME))
