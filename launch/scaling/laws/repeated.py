"""Data-constrained training: what repeated tokens and excess parameters are worth (Muennighoff et al. 2023).

arXiv 2305.16264, equations 5 and 6. With U unique tokens, of which a run sees U_D = min(D, U):

    L = E + A/N'^alpha + B/D'^beta
    D' = U_D + U_D R_D* (1 - exp(-(D/U_D - 1)/R_D*)),   N' the same with U_N = min(N, N_opt(U_D)) and R_N*

E, A, B, alpha, beta are those of the law without repetition; R_D* and R_N* are fitted.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, Logs, numeric_curvature

STARTING_R = (0.5, 1.5, 5.0, 20.0, 100.0)
EXTREME_R = (1e-3, 0.05, 1e4, 1e8)  # repetition is worth nothing, or as much as new tokens


@dataclass(frozen=True)
class DataConstrained:
    """theta = log R_D*, log R_N*; `base` holds E, A, B, alpha, beta of the law without repetition."""

    base: Mapping[str, float]
    name: str = "data-constrained"
    source: str = "Muennighoff et al. 2023, arXiv 2305.16264, equations 5 and 6"
    formula: str = "L = E + A/N'^alpha + B/D'^beta with N', D' discounted by R_N*, R_D*"
    variables: tuple[str, ...] = ("N", "D", "U")
    uncentred: tuple[str, ...] = ("N", "D", "U")
    params: tuple[str, ...] = ("R_D", "R_N")
    positive: frozenset[str] = frozenset({"R_D", "R_N"})

    def log_loss(self, theta: Array, x: Logs) -> tuple[Array, Array]:
        p = self.base
        N, D, U = (np.exp(x[v]) for v in self.variables)
        unique_d = np.minimum(D, U)
        unique_n = np.minimum(N, self.optimal_n(unique_d))
        worth_d, slope_d = _worth(unique_d, D / unique_d - 1, _star(theta[:, 0, None]))
        worth_n, slope_n = _worth(unique_n, N / unique_n - 1, _star(theta[:, 1, None]))
        term_n, term_d = p["A"] * worth_n ** -p["alpha"], p["B"] * worth_d ** -p["beta"]
        total = p["E"] + term_n + term_d
        by_d = -p["beta"] * term_d / worth_d * slope_d / total
        by_n = -p["alpha"] * term_n / worth_n * slope_n / total
        return np.log(total), np.stack([by_d, by_n], axis=1)

    def optimal_n(self, tokens: Array) -> Array:
        """Return the compute-optimal N for so many unique tokens: where alpha A/N^alpha = beta B/D^beta."""
        p = self.base
        balance = p["alpha"] * p["A"] / (p["beta"] * p["B"])
        return np.asarray((balance * tokens ** p["beta"]) ** (1 / p["alpha"]))

    def curvature(self, theta: Array, x: Logs, weights: Array) -> Array:
        return numeric_curvature(self, theta, x, weights)

    def starts(self, x: Logs, loss: Array) -> Array:
        return np.asarray(np.log([[d, n] for d in STARTING_R for n in STARTING_R]))

    def corners(self, x: Logs, loss: Array) -> Array:
        pairs = itertools.product((*EXTREME_R, *STARTING_R), repeat=2)
        return np.asarray(np.log([p for p in pairs if set(p) & set(EXTREME_R)]))

    def public(self, theta: Array, centre: Centre) -> Array:
        return np.asarray(np.exp(np.clip(theta, -30, 30)))


def _star(log_r: Array) -> Array:
    return np.asarray(np.exp(np.clip(log_r, -300.0, 300.0)))


def _worth(unique: Array, repeats: Array, star: Array) -> tuple[Array, Array]:
    """Return the effective amount (B, n) and its derivative in log R*. Exact to rounding for any R*."""
    ratio = repeats / star
    decayed = -np.expm1(-ratio)
    fading = decayed - ratio * np.exp(-ratio)
    small = ratio < 1e-3  # where the difference would cancel
    fading = np.where(small, ratio**2 * (1 / 2 - ratio * (1 / 3 - ratio * (1 / 8 - ratio / 30))), fading)
    return np.asarray(unique * (1 + star * decayed)), np.asarray(unique * star * fading)
