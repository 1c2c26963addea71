"""Farseer (Li et al. 2025, arXiv 2506.10972): floor, coefficient and exponent of D all change with N.

    L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^(-exp(a1 N^alpha + b1))

D is not centred: its exponent changes with N, so another centre would change the form of the coefficient.
a N^k + b is written as intercept + slope (e^{k x} - 1)/k with x = log N - centre, which has a limit at k = 0 (a plain
power law), so that the three curves start as Chinchilla's and bend as far as the data ask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, Logs
from launch.scaling.laws.identify import allocation_obstacles, curve_obstacles
from launch.scaling.laws.outer import gram
from launch.scaling.laws.powers import CHINCHILLA

CURVES = 3  # of N: log floor, log coefficient of D at its centre, log exponent of D
SLOPES, BENDING = np.array([1, 4, 7]), np.array([2, 5, 8])  # in theta
REFERENCE = float(np.log(1e10))  # log D at which the coefficient of D is kept, near which data lie
BENDS = (-0.2, 0.0, 0.1)  # of the floor, in starts
SHARP = (-1.0, 1.0)  # of the other two curves, in corners
TILTS = ((0.0, -0.1), (-0.3, -0.1), (0.3, 0.1), (0.3, -0.1))  # and their slopes there


def _moments(bend: Array, x: Array) -> tuple[Array, Array, Array]:
    """Return the integrals of t^k e^{z t} over t from 0 to 1 for k = 0, 1, 2, with z = bend x."""
    z = np.clip(bend * x, -30.0, 30.0)
    near = np.abs(z) < 2e-2
    safe = np.where(near, 1.0, z)
    rise = np.expm1(z)
    first = rise / safe
    second = (rise + 1 - first) / safe
    third = (rise + 1 - 2 * second) / safe
    if near.any():
        small = z[near]
        first[near], second[near], third[near] = (_series(small, k) for k in (1, 2, 3))
    return first, second, third


def _series(z: Array, order: int) -> Array:
    """Return the sum over k of z^k / (k! (k + order)), to 1e-13 for |z| below 0.02."""
    found = np.full_like(z, 1 / (math.factorial(6) * (6 + order)))
    for k in range(5, -1, -1):
        found = found * z + 1 / (math.factorial(k) * (k + order))
    return found


def _rate(log_exponent: Array) -> Array:
    return np.asarray(np.exp(np.clip(log_exponent, -12.0, 3.0)))


@dataclass(frozen=True)
class _Bent:
    """The three curves intercept + slope (e^{bend x} - 1)/bend over the rows, and their derivatives."""

    values: Array  # (B, 3, n)
    slope: Array  # (B, 3, 1)
    by_slope: Array  # (B, 3, n)
    by_both: Array  # (B, 3, n): in slope and bend
    by_bend: Array  # (B, 3, n): in bend twice, over the slope

    @staticmethod
    def of(theta: Array, x: Array) -> _Bent:
        intercept, slope, bend = theta.reshape(-1, CURVES, 3).transpose(2, 0, 1)[..., None]
        x = x[:, None, :] if x.ndim == 2 else x  # the rows of each problem, or of all
        first, second, third = _moments(bend, x)
        first *= x
        second *= x**2
        third *= x**3
        return _Bent(intercept + slope * first, slope, first, second, third)

    def slopes(self, scale: Array) -> Array:
        """Return the gradient (B, 9, n) of each curve in its own parameters, times `scale` (B, 3, n)."""
        found = np.empty((len(scale), CURVES, 3, scale.shape[2]))
        found[:, :, 0] = scale
        np.multiply(scale, self.by_slope, out=found[:, :, 1])
        np.multiply(scale, self.slope * self.by_both, out=found[:, :, 2])
        return found.reshape(len(scale), 3 * CURVES, -1)

    def curvature(self, pull: Array) -> tuple[Array, Array]:
        """Return sums (B, 3) over rows of pull (B, 3, n) times the second derivatives: mixed, and in bend twice."""
        return np.einsum("bkn,bkn->bk", pull, self.by_both), np.einsum("bkn,bkn->bk", pull, self.slope * self.by_bend)


@dataclass(frozen=True)
class Farseer:
    """theta = intercept, slope and bend of the log floor, the log coefficient of D and the log exponent of D."""

    name: str = "farseer"
    source: str = "Li et al. 2025, arXiv 2506.10972"
    formula: str = "L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^(-exp(a1 N^alpha + b1))"
    variables: tuple[str, ...] = ("N", "D")
    uncentred: tuple[str, ...] = ("D",)
    params: tuple[str, ...] = ("a1", "b1", "alpha", "a2", "b2", "beta", "a3", "b3", "gamma")
    positive: frozenset[str] = frozenset()

    def log_loss(self, theta: Array, x: Logs) -> tuple[Array, Array]:
        bent = _Bent.of(theta, x["N"])
        floor, coefficient, exponent = bent.values.transpose(1, 0, 2)
        rate, middle = _rate(exponent), _rate(theta[:, 6, None])
        log_term = coefficient - rate * x["D"] + middle * REFERENCE
        low, high = np.exp(np.clip(floor, -60, 60)), np.exp(np.clip(log_term, -60, 60))
        total = low + high
        share = high / total
        jacobian = bent.slopes(np.stack([1 - share, share, -share * rate * x["D"]], axis=1))
        jacobian[:, 6] += share * middle * REFERENCE
        return np.log(total), jacobian

    def curvature(self, theta: Array, x: Logs, weights: Array) -> Array:
        # Hess log(low + high) = s_l Hess log low + s_h Hess log high + s_l s_h d d', d their gradients' difference.
        bent = _Bent.of(theta, x["N"])
        floor, coefficient, exponent = bent.values.transpose(1, 0, 2)
        rate, middle = _rate(exponent) * x["D"], _rate(theta[:, 6, None]) * REFERENCE
        share = 1 / (1 + np.exp(-np.clip(coefficient - rate + middle - floor, -60, 60)))
        one = np.ones_like(share)
        rises = bent.slopes(np.stack([-one, one, -rate], axis=1))
        rises[:, 6] += middle
        hessian = gram(rises, weights * share * (1 - share))
        of_rate = -weights * share * rate
        slopes = bent.slopes(np.stack([one, one, one], axis=1))[:, 6:]
        hessian[:, 6:, 6:] += gram(slopes, of_rate)
        hessian[:, 6, 6] += np.einsum("bn,bn->b", weights, share * middle)
        pull = np.stack([weights * (1 - share), weights * share, of_rate], axis=1)
        mixed, twice = bent.curvature(pull)
        hessian[:, SLOPES, BENDING] += mixed
        hessian[:, BENDING, SLOPES] += mixed
        hessian[:, BENDING, BENDING] += twice
        return hessian

    def obstacles(self, columns: Mapping[str, Array]) -> list[str]:
        return allocation_obstacles(columns) or curve_obstacles(columns, len(self.params))

    def starts(self, x: Logs, loss: Array) -> Array:
        return np.concatenate([self._from_chinchilla(x, loss, 3, (bend, 0.05, 0.05)) for bend in BENDS])

    def corners(self, x: Logs, loss: Array) -> Array:
        found = [self._from_chinchilla(x, loss, 6, (-0.1, b, e)) for b in SHARP for e in SHARP for _ in TILTS]
        for start, tilt in zip(found, TILTS * len(SHARP) ** 2, strict=True):
            start[:, SLOPES[1:]] = tilt
        return np.concatenate(found)

    @staticmethod
    def _from_chinchilla(x: Logs, loss: Array, every: int, bends: tuple[float, float, float]) -> Array:
        """Return every k-th start of Chinchilla's law, as a law whose curves would bend like this."""
        mean = float(np.mean(x["D"]))
        inner = CHINCHILLA.starts({"N": x["N"], "D": x["D"] - mean}, loss)[::every]
        log_e, log_a, alpha, log_b, beta = inner.T
        floor, rate = np.logaddexp(log_e, log_a), np.log(np.clip(beta, 0.02, 2.0))
        log_b = log_b + np.exp(rate) * (mean - REFERENCE)
        slope, zero = -alpha * np.exp(log_a - floor), np.zeros(len(inner))
        columns = [floor, slope, zero + bends[0], log_b, zero, zero + bends[1], rate, zero, zero + bends[2]]
        return np.stack(columns, axis=1)

    def public(self, theta: Array, centre: Centre) -> Array:
        curves = []
        for k in (2, 1, 0):
            intercept, slope, bend = (theta[:, 3 * k + i] for i in range(3))
            safe = np.where(np.abs(bend) < 1e-6, 1e-6, bend)
            if k == 1:
                intercept = intercept + np.exp(theta[:, 6]) * REFERENCE
            curves += [
                slope / safe * np.exp(np.clip(-safe * centre.means["N"], -700, 700)),
                intercept - slope / safe,
                bend,
            ]
        return np.stack(curves, axis=1)
