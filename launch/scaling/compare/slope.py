"""How steeply the loss falls with compute at each rung: what turns a difference of losses into one of FLOPs.

The curve is that of the mean of both ladders. Its slope is that of either ladder half way between them, which makes
the shift right to second order, and its errors are independent of those of the differences, since the sum and the
difference of two equally noisy numbers are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.compare.rungs import Samples
from trainer.contract.errors import UserError

STEEP = 3.0  # standard errors by which a slope must be below zero to divide by it


@dataclass(frozen=True)
class Slope:
    """d log loss / d log C at each rung (S,), and its covariance (S, S).

    `at(x)` continues it: `coefficients` are those of log loss in log C about `centre`, or with an asymptote those of
    log(loss - asymptote).
    """

    values: Array
    covariance: Array
    asymptote: float | None
    centre: float
    coefficients: Array
    noise: float  # standard deviation of the log loss of one mean, about the curve and over seeds
    freedom: int  # of that; 0: guessed from the differences

    @property
    def steep(self) -> list[bool]:
        """Whether the loss falls at a rung by so much more than the slope's error that a shift of its own is known."""
        return (self.values + STEEP * np.sqrt(np.diag(self.covariance)) < 0).tolist()

    def log_loss(self, x: Array) -> Array:
        """Return the log loss of the mean ladder at log C."""
        line = np.polyval(self.coefficients[::-1], x - self.centre)
        return line if self.asymptote is None else np.log(self.asymptote + np.exp(line))

    def at(self, x: Array) -> Array:
        """Return the slope at log C."""
        derived = np.polyval(np.polyder(self.coefficients[::-1]), x - self.centre) * np.ones_like(x)
        return derived if self.asymptote is None else derived * (1 - self.asymptote / np.exp(self.log_loss(x)))


def fit_slope(found: Samples, asymptote: float | None = None) -> Slope:
    """Fit the mean ladder: E + A C^-a with a pinned E, else a parabola of log loss in log C.

    A free parabola is held, weakly, to the curvature that a floor of half the loss would give it, so that three rungs
    have a slope (`_usual_curvature`). Raises UserError where E is not below every loss, or the loss does not fall.
    """
    centre = float(found.x.mean())
    order = 2 if asymptote is None else 1
    design = np.vander(found.x - centre, order + 1, increasing=True)
    response, stretch = found.mean, np.ones(len(found.x))
    if asymptote is not None:
        above = _above(found, asymptote)
        response, stretch = np.log(above), np.exp(found.mean) / above
    weights = np.sqrt(found.count) / stretch
    rows, values = design * weights[:, None], response * weights
    guess = _guess(found)
    if asymptote is None:
        curvature = _usual_curvature(found, centre)
        rows = np.vstack([rows, [0.0, 0.0, guess / curvature]])
        values = np.append(values, guess)
    inverse = np.linalg.pinv(rows)
    coefficients = inverse @ values
    residual = (response - design @ coefficients) * weights
    freedom = len(found.x) - order - 1 + found.mean_freedom
    variance = (float(residual @ residual) + found.mean_squares) / freedom if freedom else guess**2
    slope = Slope(np.empty(0), np.empty(0), asymptote, centre, coefficients, variance**0.5, freedom)
    jacobian = np.stack([k * (found.x - centre) ** max(k - 1, 0) for k in range(order + 1)], axis=1)
    if asymptote is not None:
        jacobian = jacobian * (1 - asymptote / np.exp(slope.log_loss(found.x)))[:, None]
    covariance = variance * jacobian @ (inverse @ inverse.T) @ jacobian.T
    slope = replace(slope, values=slope.at(found.x), covariance=covariance)
    _refuse_flat(slope, found)
    return slope


def _above(found: Samples, asymptote: float) -> Array:
    """Return how far the mean ladder (S,) is above the asymptote, nats. Raises UserError where it is not."""
    above = np.exp(found.mean) - asymptote
    if above.min() <= 0:
        raise UserError(
            f"the asymptote {asymptote:g} nats is not below the lowest mean loss, {np.exp(found.mean).min():.4f}: "
            "give the entropy of this evaluation set, or leave --asymptote out"
        )
    return np.asarray(above)


def _guess(found: Samples) -> float:
    """Return the standard deviation of the mean of one pair: over seeds, or from the scatter of the differences.

    Without several seeds, the correlation of a pair is not known: a third of the noise is taken to be shared.
    """
    if found.mean_freedom:
        return float((found.mean_squares / found.mean_freedom) ** 0.5)
    away = (found.difference - found.difference.mean()) * np.sqrt(found.count)
    return float((away @ away / (len(away) - 1) / 2) ** 0.5)


def _usual_curvature(found: Samples, centre: float) -> float:
    """Return the coefficient of the square of log C where half of the loss is a floor.

    With q = E/L and slope g of log L it is g^2 q / 2(1 - q): zero without a floor, g^2 / 2 at a half, three times that
    at three quarters. The parabola may leave it by as much again at one standard error.
    """
    line = np.polynomial.polynomial.polyfit(found.x - centre, found.mean, 1, w=np.sqrt(found.count))
    return float(max(line[1] ** 2 / 2, 1e-12))


def _refuse_flat(slope: Slope, found: Samples) -> None:
    """Raise UserError where the loss of the ladder as a whole does not fall beyond its noise."""
    value, error = float(slope.values.mean()), float(slope.covariance.mean()) ** 0.5
    if value + STEEP * error >= 0:
        low, high = np.exp([found.x.min(), found.x.max()])
        raise UserError(
            f"from {low:.2g} to {high:.2g} FLOPs the loss hardly falls with compute (slope {value:.4f} +- {error:.4f} "
            "of log loss per e-fold), so losses cannot be turned into FLOPs: make the ladder longer, add seeds, or pin "
            "the asymptote (--asymptote)"
        )
