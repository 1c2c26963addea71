"""Over-training: the loss in compute C and tokens per parameter M = D/N (Gadre et al. 2024, arXiv 2403.08540).

    L = E + (u M^eta + v M^-eta) C^-eta

is Chinchilla's law with one exponent: alpha = beta = 2 eta, u = A 6^eta, v = B 6^eta. The paper's letters are a and b;
a is the exponent of N* ~ C^a here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, Logs
from launch.scaling.laws.powers import CHINCHILLA

FREE = np.array([0, 1, 2, 3])  # log E, log of N's term, exponent, log of D's term of Chinchilla's theta
TIE = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]], float)


@dataclass(frozen=True)
class OverTraining:
    """theta = log E, log of N's term at the centre, the common exponent 2 eta, log of D's term."""

    name: str = "over-training"
    source: str = "Gadre et al. 2024, arXiv 2403.08540, equation 4"
    formula: str = "L = E + (u M^eta + v M^-eta) C^-eta with M = D/N"
    variables: tuple[str, ...] = ("N", "D")
    uncentred: tuple[str, ...] = ()
    params: tuple[str, ...] = ("E", "u", "v", "eta")
    positive: frozenset[str] = frozenset({"E", "u", "v"})

    def log_loss(self, theta: Array, x: Logs) -> tuple[Array, Array]:
        log_loss, jacobian = CHINCHILLA.log_loss(theta @ TIE.T, x)
        return log_loss, np.einsum("bpn,pq->bqn", jacobian, TIE)

    def curvature(self, theta: Array, x: Logs, weights: Array) -> Array:
        return np.asarray(TIE.T @ CHINCHILLA.curvature(theta @ TIE.T, x, weights) @ TIE)

    def log_optimal_n(self, theta: Array, centre: Centre, flops: float | Array) -> Array:
        """Return ln N* (B,) at a budget C = 6 N D."""
        return CHINCHILLA.log_optimal_n(theta @ TIE.T, centre, flops)

    def starts(self, x: Logs, loss: Array) -> Array:
        return CHINCHILLA.starts(x, loss)[:, FREE]

    def corners(self, x: Logs, loss: Array) -> Array:
        return CHINCHILLA.corners(x, loss)[:, FREE]

    def public(self, theta: Array, centre: Centre) -> Array:
        E, A, B, alpha, _ = CHINCHILLA.public(theta @ TIE.T, centre).T
        eta = alpha / 2
        return np.stack([E, A * 6**eta, B * 6**eta, eta], axis=1)
