"""Farseer (Li et al. 2025, arXiv 2506.10972): floor, coefficient and exponent of D all change with N.

    L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^(-exp(a1 N^alpha + b1))

D is not centred: its exponent changes with N, so another centre would change the form of the coefficient.
a N^k + b is written as intercept + slope (e^{k x} - 1)/k with x = log N - centre, which has a limit at k = 0 (a plain
power law), so that the three curves start as Chinchilla's and bend as far as the data ask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from launch.scaling.laws.base import Centre, Logs
from launch.scaling.laws.outer import gram
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.objective import Array

CURVES = 3  # of N: log floor, log coefficient of D at its centre, log exponent of D
REFERENCE = float(np.log(1e10))  # log D at which the coefficient of D is kept, near which data lie
BENDS = (-0.2, 0.0, 0.1)


def bent(intercept: Array, slope: Array, bend: Array, x: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    """Return intercept + slope (e^{bend x} - 1)/bend and its derivatives in the three parameters."""
    product = np.clip(bend * x, -30.0, 30.0)
    safe = np.where(np.abs(bend) < 1e-6, 1e-6, bend)
    near = np.abs(product) < 1e-2
    power = np.expm1(product)
    ratio = np.where(
        near, x * (1 + product * (0.5 + product * (1 / 6 + product * (1 / 24 + product / 120)))), power / safe
    )
    by_bend = np.where(near, x**2 * _series(product, 2), ((product - 1) * (power + 1) + 1) / safe**2)
    one = np.ones_like(ratio)
    return intercept + slope * ratio, (one, ratio, slope * by_bend)


def bent_curvature(slope: Array, bend: Array, x: Array) -> tuple[Array, Array]:
    """Return the second derivatives of `bent` that are not zero: in slope and bend, and twice in bend."""
    product = np.clip(bend * x, -30.0, 30.0)
    safe = np.where(np.abs(bend) < 1e-6, 1e-6, bend)
    near = np.abs(product) < 1e-2
    power = np.expm1(product)
    first = np.where(near, x**2 * _series(product, 2), ((product - 1) * (power + 1) + 1) / safe**2)
    exact = ((product**2 - 2 * product + 2) * (power + 1) - 2) / safe**3
    return first, slope * np.where(near, x**3 * _series(product, 3), exact)


def _series(product: Array, order: int) -> Array:
    """Return the sum over k of product^k / (k! (k + order)), to 1e-11 for products below 0.01."""
    return np.asarray(sum(product**k / (math.factorial(k) * (k + order)) for k in range(5)))


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
        floor, coefficient, exponent = (
            bent(theta[:, 3 * k, None], theta[:, 3 * k + 1, None], theta[:, 3 * k + 2, None], x["N"])
            for k in range(CURVES)
        )
        rate = np.exp(np.clip(exponent[0], -12.0, 3.0))
        middle = np.exp(np.clip(theta[:, 6, None], -12.0, 3.0))  # the exponent at the centre of N
        log_term = coefficient[0] - rate * x["D"] + middle * REFERENCE
        low, high = np.exp(np.clip(floor[0], -60, 60)), np.exp(np.clip(log_term, -60, 60))
        total = low + high
        share = high / total
        columns = [(1 - share) * d for d in floor[1]] + [share * d for d in coefficient[1]]
        columns += [-share * rate * x["D"] * d for d in exponent[1]]
        columns[6] = columns[6] + share * middle * REFERENCE
        return np.log(total), np.stack([np.broadcast_to(c, total.shape) for c in columns], axis=1)

    def curvature(self, theta: Array, x: Logs, weights: Array) -> Array:
        # Hess log(low + high) = s_l Hess log low + s_h Hess log high + s_l s_h d d', d their gradients' difference.
        p = [theta[:, k, None] for k in range(3 * CURVES)]
        floor, coefficient, exponent = (bent(p[k], p[k + 1], p[k + 2], x["N"]) for k in (0, 3, 6))
        rate = np.exp(np.clip(exponent[0], -12.0, 3.0)) * x["D"]
        middle = np.exp(np.clip(p[6], -12.0, 3.0)) * REFERENCE
        difference = coefficient[0] - rate + middle - floor[0]
        share = 1 / (1 + np.exp(-np.clip(difference, -60, 60)))
        slopes = [np.broadcast_to(d, share.shape) for d in exponent[1]]
        rises = [-d for d in floor[1]] + list(coefficient[1]) + [-rate * d for d in slopes]
        rises[6] = rises[6] + middle
        rises = [np.broadcast_to(r, share.shape) for r in rises]
        hessian = gram(np.stack(rises, axis=1), weights * share * (1 - share))
        of_rate = -weights * share * rate
        hessian[:, 6:, 6:] += gram(np.stack(slopes, axis=1), of_rate)
        hessian[:, 6, 6] += np.einsum("bn,bn->b", weights, share * middle)
        for k, pull in enumerate((weights * (1 - share), weights * share, of_rate)):
            slope, bend = 3 * k + 1, 3 * k + 2
            by_slope, by_bend = bent_curvature(p[slope], p[bend], x["N"])
            mixed = np.einsum("bn,bn->b", pull, by_slope)
            hessian[:, slope, bend] += mixed
            hessian[:, bend, slope] += mixed
            hessian[:, bend, bend] += np.einsum("bn,bn->b", pull, by_bend)
        return hessian

    def starts(self, x: Logs, loss: Array) -> Array:
        found = []
        mean = float(np.mean(x["D"]))
        for log_e, log_a, alpha, log_b, beta in CHINCHILLA.starts({"N": x["N"], "D": x["D"] - mean}, loss)[::2]:
            floor = np.logaddexp(log_e, log_a)
            slope = -alpha * np.exp(log_a - floor)
            rate = np.log(np.clip(beta, 0.02, 2.0))
            log_b = log_b + np.exp(rate) * (mean - REFERENCE)
            found += [[floor, slope, bend, log_b, 0.0, 0.05, rate, 0.0, 0.05] for bend in BENDS]
        return np.array(found)

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
