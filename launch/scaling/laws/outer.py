"""Laws with an outer exponent: the two powers are added before they are raised.

    L = E + [A/N^alpha + B/D^beta]^q          the general form; q = 1 is Chinchilla's
    L = [(Nc/N)^(aN/aD) + Dc/D]^aD            Kaplan et al. 2020, equation 1.5

Internal parameters are chosen so that q hardly moves the others: with t_k the log of a term raised to q alone,
log T = q log sum exp(t_k / q), and the derivative of log T in log q is q times the entropy of the terms' shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, Logs
from launch.scaling.laws.powers import CHINCHILLA

VARIABLES = ("N", "D")
STARTING_Q = (0.25, 0.6, 1.0, 1.6)
EXTREME_Q = (0.02, 1.0, 50.0)  # towards the larger of the two terms, and towards their product


def outer_sum(t_n: Array, t_d: Array, q: Array) -> tuple[Array, Array, Array]:
    """Return log T (B, n), the share of N (B, n) and d log T / d log q (B, n) for terms raised alone."""
    a, b = t_n / q, t_d / q
    top = np.maximum(a, b)
    log_sum = top + np.log1p(np.exp(-np.abs(a - b)))
    share_n = np.exp(a - log_sum)
    entropy = log_sum - share_n * a - (1 - share_n) * b
    return q * log_sum, share_n, q * entropy


def bounded(log_q: Array, low: float, high: float) -> tuple[Array, Array]:
    """Return q, held between two bounds, and whether log q is free to move it: beyond them it has no slope."""
    return np.exp(np.clip(log_q, low, high)), ((log_q > low) & (log_q < high)).astype(float)


def balance(a: Array, alpha: Array, b: Array, beta: Array, centre: Centre, flops: float | Array) -> Array:
    """Return ln N* at C = 6 N D for inner terms exp(a - alpha x_N), exp(b - beta x_D): their slopes balance there."""
    total = np.log(flops / 6) - centre.means["N"] - centre.means["D"]
    slopes = np.log(np.maximum(alpha, 1e-12)) - np.log(np.maximum(beta, 1e-12))
    return np.asarray((a + slopes - b + beta * total) / (alpha + beta) + centre.means["N"])


def gram(vectors: Array, weights: Array) -> Array:
    """Return the sum over rows of weights (B, n) times the outer product of vectors (B, p, n)."""
    return np.asarray((vectors * weights[:, None, :]) @ vectors.transpose(0, 2, 1))


def _with_exponents(inner: Array, exponents: tuple[float, ...]) -> Array:
    return np.concatenate([np.concatenate([inner, np.full((len(inner), 1), np.log(q))], axis=1) for q in exponents])


@dataclass(frozen=True)
class OuterExponent:
    """E + [A/N^alpha + B/D^beta]^q; theta = log E, a, q alpha, b, q beta, log q."""

    name: str = "outer"
    source: str = "Chinchilla's form with an outer exponent, after Kaplan et al. 2020, equation 1.5"
    formula: str = "L = E + [A/N^alpha + B/D^beta]^q"
    variables: tuple[str, ...] = VARIABLES
    uncentred: tuple[str, ...] = ()
    params: tuple[str, ...] = ("E", "A", "B", "alpha", "beta", "q")
    positive: frozenset[str] = frozenset({"E", "A", "B", "q"})

    def log_loss(self, theta: Array, x: Logs) -> tuple[Array, Array]:
        log_e, a, alpha, b, beta, log_q = (theta[:, k, None] for k in range(6))
        q, free = bounded(log_q, -5.0, 5.0)
        log_t, share, by_q = outer_sum(a - alpha * x["N"], b - beta * x["D"], q)
        floor, term = np.exp(np.maximum(log_e, -60.0)), np.exp(np.clip(log_t, -60.0, 60.0))
        total = floor + term
        part = term / total
        columns = [
            np.broadcast_to(floor, total.shape) / total,
            part * share,
            -part * share * x["N"],
            part * (1 - share),
            -part * (1 - share) * x["D"],
            part * by_q * free,
        ]
        return np.log(total), np.stack(columns, axis=1)

    def curvature(self, theta: Array, x: Logs, weights: Array) -> Array:
        # With s the shares, p the share of the term in L and d = t_N - t_D:
        # Hess log T = s_N s_D / q v v' + q H e e', v = (1, -x, -1, y, -d); log L adds p (1 - p) (grad)(grad)'.
        log_e, a, alpha, b, beta, log_q = (theta[:, k, None] for k in range(6))
        q, free = bounded(log_q, -5.0, 5.0)
        t_n, t_d = a - alpha * x["N"], b - beta * x["D"]
        log_t, share, by_q = outer_sum(t_n, t_d, q)
        part = 1 / (1 + np.exp(np.clip(log_e - log_t, -60.0, 60.0)))
        one = np.ones_like(share)
        rises = np.stack([0 * one, one, -x["N"] * one, -one, x["D"] * one, (t_d - t_n) * free], axis=1)
        slopes = [-one, share, -share * x["N"], 1 - share, -(1 - share) * x["D"], by_q * free]
        hessian = gram(rises, weights * part * share * (1 - share) / q)
        hessian += gram(np.stack(slopes, axis=1), weights * part * (1 - part))
        hessian[:, 5, 5] += np.einsum("bn,bn->b", weights * part, by_q * free)
        return hessian

    def log_optimal_n(self, theta: Array, centre: Centre, flops: float | Array) -> Array:
        """Return ln N* (B,) at a budget C = 6 N D: the outer exponent does not move it."""
        q = np.exp(np.clip(theta[:, 5], -5.0, 5.0))
        a, alpha, b, beta = (theta[:, k] / q for k in range(1, 5))
        return balance(a, alpha, b, beta, centre, flops)

    def starts(self, x: Logs, loss: Array) -> Array:
        return _with_exponents(CHINCHILLA.starts(x, loss)[::3], STARTING_Q)

    def corners(self, x: Logs, loss: Array) -> Array:
        return _with_exponents(CHINCHILLA.corners(x, loss), EXTREME_Q)

    def public(self, theta: Array, centre: Centre) -> Array:
        q = np.exp(np.clip(theta[:, 5], -5.0, 5.0))
        alpha, beta = theta[:, 2] / q, theta[:, 4] / q
        A = np.exp(np.minimum(theta[:, 1] / q + alpha * centre.means["N"], 700.0))
        B = np.exp(np.minimum(theta[:, 3] / q + beta * centre.means["D"], 700.0))
        return np.stack([np.exp(theta[:, 0]), A, B, alpha, beta, q], axis=1)


@dataclass(frozen=True)
class KaplanND:
    """[(Nc/N)^(alpha_N/alpha_D) + Dc/D]^alpha_D; theta = a, alpha_N, b, log alpha_D."""

    name: str = "kaplan-ND"
    source: str = "Kaplan et al. 2020, arXiv 2001.08361, equation 1.5"
    formula: str = "L = [(Nc/N)^(alpha_N/alpha_D) + Dc/D]^alpha_D"
    variables: tuple[str, ...] = VARIABLES
    uncentred: tuple[str, ...] = ()
    params: tuple[str, ...] = ("Nc", "Dc", "alpha_N", "alpha_D")
    positive: frozenset[str] = frozenset({"Nc", "Dc", "alpha_D"})

    def log_loss(self, theta: Array, x: Logs) -> tuple[Array, Array]:
        a, alpha, b, log_q = (theta[:, k, None] for k in range(4))
        q, free = bounded(log_q, -6.0, 3.0)
        log_t, share, by_q = outer_sum(a - alpha * x["N"], b - q * x["D"], q)
        columns = [share, -share * x["N"], 1 - share, (by_q - (1 - share) * q * x["D"]) * free]
        return log_t, np.stack(columns, axis=1)

    def curvature(self, theta: Array, x: Logs, weights: Array) -> Array:
        a, alpha, b, log_q = (theta[:, k, None] for k in range(4))
        q, free = bounded(log_q, -6.0, 3.0)
        t_n, t_d = a - alpha * x["N"], b - q * x["D"]
        _, share, by_q = outer_sum(t_n, t_d, q)
        one = np.ones_like(share)
        rises = np.stack([one, -x["N"] * one, -one, (t_d - t_n + q * x["D"]) * free], axis=1)
        hessian = gram(rises, weights * share * (1 - share) / q)
        hessian[:, 3, 3] += np.einsum("bn,bn->b", weights, (by_q - q * x["D"] * (1 - share)) * free)
        return hessian

    def log_optimal_n(self, theta: Array, centre: Centre, flops: float | Array) -> Array:
        """Return ln N* (B,) at a budget C = 6 N D."""
        q = np.exp(np.clip(theta[:, 3], -6.0, 3.0))
        return balance(theta[:, 0] / q, theta[:, 1] / q, theta[:, 2] / q, np.ones_like(q), centre, flops)

    def starts(self, x: Logs, loss: Array) -> Array:
        return self._grid(loss, [0.03, 0.08, 0.2, 0.5], [0.03, 0.08, 0.2, 0.5])

    def corners(self, x: Logs, loss: Array) -> Array:
        # A tiny alpha_D is the larger of the two terms: let that of N take over in the middle, or beyond it.
        middle = self._grid(loss, [-0.2, 0.05, 0.3, 1.5], [0.004, 1.5])
        beyond = middle.copy()
        beyond[:, 0] -= np.abs(beyond[:, 1]) * np.std(x["N"])
        return np.concatenate([middle, beyond])

    def _grid(self, loss: Array, alphas: list[float], exponents: list[float]) -> Array:
        middle = float(np.mean(np.log(loss)))
        alpha, q, share = np.array(np.meshgrid(alphas, exponents, [0.2, 0.8])).reshape(3, -1)
        return np.stack([middle + q * np.log(share), alpha, middle + q * np.log(1 - share), np.log(q)], axis=1)

    def public(self, theta: Array, centre: Centre) -> Array:
        q = np.exp(np.clip(theta[:, 3], -6.0, 3.0))
        n_c = np.exp(np.clip(theta[:, 0] / theta[:, 1] + centre.means["N"], -700, 700))
        d_c = np.exp(np.clip(theta[:, 2] / q + centre.means["D"], -700, 700))
        return np.stack([n_c, d_c, theta[:, 1], q], axis=1)
