"""The horizontal shift between two ladders: how many times the variant's compute the base needs for its loss.

At each rung the difference of log losses over the slope of the ladder is a shift of log C. The common shift is the
regression of differences on slopes through the origin, the trend that on slopes times log C. Where the shift is zero
its interval is exact whatever the slope: the difference alone decides (Fieller 1954).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.compare.rungs import Rung, Samples, samples
from launch.scaling.compare.slope import Slope, fit_slope
from launch.scaling.trust.quantiles import student

LEVEL = 0.90  # of every interval
UNEQUAL = 0.05  # probability of the scatter over rungs, by seeds alone, below which multipliers differ
FEWEST_RUNGS = 3


@dataclass(frozen=True)
class Estimate:
    """A logarithm, its standard error, and the degrees of freedom of that."""

    value: float
    error: float
    freedom: float

    @property
    def interval(self) -> tuple[float, float]:
        """90 %."""
        half = student(self.freedom, LEVEL) * self.error
        return self.value - half, self.value + half

    def scaled(self, by: float, less: float = 0.0) -> Estimate:
        """Return the estimate times `by`, less a number that is known."""
        return Estimate(by * self.value - less, abs(by) * self.error, self.freedom)


@dataclass(frozen=True)
class Noise:
    """Standard deviation of the difference of one pair, log loss, with its degrees of freedom."""

    sd: float
    freedom: float


@dataclass(frozen=True)
class Shift:
    """All logarithms are of FLOPs that the base needs over FLOPs that the variant took."""

    found: Samples
    slope: Slope
    common: Estimate
    trend: Estimate  # per e-fold of compute
    rungs: tuple[Estimate | None, ...]  # None where the loss is too flat for a shift of its own
    by_seeds: bool  # the interval of a rung: by its own seeds; else it is that of the line through all rungs
    noise: Noise  # of the common shift
    unequal: float | None  # probability of so much scatter over rungs by seeds alone; None without several seeds

    @property
    def differs(self) -> bool:
        """Whether the multiplier differs between rungs by more than seeds explain."""
        return self.unequal is not None and self.unequal < UNEQUAL

    def on_line(self, log_flops: float) -> Estimate:
        """Return the shift at a compute by the line through all rungs."""
        about = log_flops - self.centre
        a = _line_weights(self.found, self.slope)
        return self._functional(a[0] + about * a[1], _line_noise(self.found, self.slope))

    @property
    def centre(self) -> float:
        """Log FLOPs about which the trend turns."""
        return _centre(self.found, self.slope)

    def _functional(self, weights: Array, noise: Noise) -> Estimate:
        return _functional(weights, self.found, self.slope, self.common.value, noise)


def shift(rungs: Sequence[Rung], asymptote: float | None = None) -> Shift:
    """Return the shift between two ladders of at least three rungs, smallest first. Raises UserError."""
    found = samples(rungs)
    slope = fit_slope(found, asymptote)
    noise, unequal = _noise(found, slope)
    weights = _common_weights(found, slope)
    about = float(weights @ (found.difference / slope.values - found.beyond))
    common = _functional(weights, found, slope, about, noise)
    line, line_noise = _line_weights(found, slope), _line_noise(found, slope)
    trend = _functional(line[1], found, slope, about, line_noise)
    each: list[Estimate | None]
    if by_seeds := found.freedom > 0:
        own = Noise((found.squares / found.freedom) ** 0.5, found.freedom)
        each = [
            _functional(one, found, slope, about, own) if steep else None
            for one, steep in zip(np.eye(len(found.x)), slope.steep, strict=True)
        ]
    else:
        away = found.x - _centre(found, slope)
        each = [_functional(line[0] + one * line[1], found, slope, about, line_noise) for one in away]
    return Shift(found, slope, common, trend, tuple(each), by_seeds, noise, unequal)


def _common_weights(found: Samples, slope: Slope) -> Array:
    """Return the weight (S,) of each rung's shift in the common one: by its variance."""
    information = found.count * slope.values**2
    return np.asarray(information / information.sum())


def _centre(found: Samples, slope: Slope) -> float:
    return float(_common_weights(found, slope) @ found.x)


def _line_weights(found: Samples, slope: Slope) -> Array:
    """Return weights (2, S) of the rungs' shifts in the line's height at the centre, and in its slope."""
    weights, away = _common_weights(found, slope), found.x - _centre(found, slope)
    return np.stack([weights, weights * away / float(weights @ away**2)])


def _residual_squares(found: Samples, slope: Slope, weights: Array) -> float:
    """Return the scatter of the differences about their regression; `weights` (k, S) of its coefficients."""
    shifts = found.difference / slope.values - found.beyond
    away = found.x - _centre(found, slope)
    fitted = sum((float(w @ shifts) * away**k for k, w in enumerate(weights)), np.zeros(len(shifts)))
    return float((found.count * ((shifts - fitted) * slope.values) ** 2).sum())


def _noise(found: Samples, slope: Slope) -> tuple[Noise, float | None]:
    """Return the noise of the common shift, and how likely seeds alone make rungs scatter so much about it.

    Seeds and scatter are pooled, unless rungs differ by more than seeds explain: then the scatter alone counts.
    """
    between, freedom = _residual_squares(found, slope, _common_weights(found, slope)[None]), len(found.x) - 1
    if not found.freedom:
        return Noise((between / freedom) ** 0.5, freedom), None
    from scipy.special import fdtrc  # late, as in quantiles.py

    ratio = (between / freedom) / (found.squares / found.freedom) if found.squares else np.inf
    unequal = float(fdtrc(freedom, found.freedom, ratio))
    if unequal < UNEQUAL:
        return Noise((between / freedom) ** 0.5, freedom), unequal
    both = freedom + found.freedom
    return Noise(((between + found.squares) / both) ** 0.5, both), unequal


def _line_noise(found: Samples, slope: Slope) -> Noise:
    """Return the noise about the line: by seeds and scatter, for the line has what rungs differ by."""
    scatter = _residual_squares(found, slope, _line_weights(found, slope))
    freedom = len(found.x) - 2 + found.freedom
    return Noise(((scatter + found.squares) / freedom) ** 0.5, freedom)


def _functional(weights: Array, found: Samples, slope: Slope, about: float, noise: Noise) -> Estimate:
    """Return a weighted sum of the rungs' shifts, with the errors of differences and of slopes.

    `about` is the shift near which errors are propagated: a rung's own would let noise make noise.
    """
    value = float(weights @ (found.difference / slope.values - found.beyond))
    of_noise = float((weights**2 / found.count / slope.values**2).sum()) * noise.sd**2
    lever = weights * (about + found.beyond) / slope.values
    of_slope = float(lever @ slope.covariance @ lever)
    total = of_noise + of_slope
    freedom = float(noise.freedom)
    if of_slope > 0:  # Satterthwaite 1946; a noise that was guessed has the freedom of the differences
        of_guess = slope.freedom or len(found.x) - 1
        freedom = total**2 / (of_noise**2 / noise.freedom + of_slope**2 / of_guess)
    return Estimate(value, total**0.5, freedom)
