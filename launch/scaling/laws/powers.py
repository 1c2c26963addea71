"""Sums of power laws: a floor and one decreasing power for each variable.

    L = E + A/N^alpha + B/D^beta        Hoffmann et al. 2022, approach 3
    L = E + A/N^alpha, L = A/N^alpha    Kaplan et al. 2020, with and without a floor; the same in D and C

Internal parameters: log E (when there is a floor), then for each variable the log of its term at the centre and
its exponent. With shares s_k = term_k / L the derivatives of log L are s_k and -x_k s_k.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, Logs
from launch.scaling.laws.starts import power_starts

COEFFICIENTS = {"N": ("A", "alpha"), "D": ("B", "beta"), "C": ("K", "gamma")}
SMALLEST_LOG_TERM = -60.0


@dataclass(frozen=True)
class PowerSum:
    """E + sum over variables of coefficient / variable^exponent."""

    name: str
    source: str
    variables: tuple[str, ...]
    floor: bool = True
    uncentred: tuple[str, ...] = ()

    @property
    def params(self) -> tuple[str, ...]:
        pairs = [COEFFICIENTS[v] for v in self.variables]
        coefficients = tuple(p[0] for p in pairs)
        exponents = tuple(p[1] for p in pairs)
        return (("E",) if self.floor else ()) + coefficients + exponents

    @property
    def positive(self) -> frozenset[str]:
        return frozenset(self.params) - {COEFFICIENTS[v][1] for v in self.variables}

    @property
    def formula(self) -> str:
        terms = [f"{a}/{v}^{e}" for v in self.variables for a, e in [COEFFICIENTS[v]]]
        return "L = " + " + ".join((["E"] if self.floor else []) + terms)

    def log_loss(self, theta: Array, x: Logs) -> tuple[Array, Array]:
        rows = x[self.variables[0]].shape[-1]
        jacobian = np.empty((len(theta), theta.shape[1], rows))
        total = self._terms(theta, x, jacobian)
        jacobian /= total[:, None, :]
        for k, variable in enumerate(self.variables):
            column = int(self.floor) + 2 * k
            np.multiply(jacobian[:, column], -x[variable], out=jacobian[:, column + 1])
        return np.log(total), jacobian

    def _terms(self, theta: Array, x: Logs, out: Array) -> Array:
        """Write each term into its row of `out` (the exponents' rows with anything finite); return the sum."""
        first = int(self.floor)
        if self.floor:
            out[:, 0] = np.exp(np.maximum(theta[:, 0], SMALLEST_LOG_TERM))[:, None]
        for k, variable in enumerate(self.variables):
            column = first + 2 * k
            log_term = theta[:, column, None] - theta[:, column + 1, None] * x[variable]
            np.exp(np.clip(log_term, SMALLEST_LOG_TERM, 60.0), out=out[:, column])
            out[:, column + 1] = 0.0
        total: Array = out.sum(axis=1)
        return total

    def curvature(self, theta: Array, x: Logs, weights: Array) -> Array:
        _, jacobian = self.log_loss(theta, x)
        return self.curvature_from(jacobian, x, weights)

    def curvature_from(self, jacobian: Array, x: Logs, weights: Array) -> Array:
        """Return the curvature from a Jacobian that is already known."""
        hessian = -(jacobian * weights[:, None, :]) @ jacobian.transpose(0, 2, 1)
        if self.floor:
            hessian[:, 0, 0] += np.einsum("bn,bn->b", jacobian[:, 0], weights)
        for k, variable in enumerate(self.variables):
            c = int(self.floor) + 2 * k
            term = jacobian[:, c] * weights
            hessian[:, c, c] += term.sum(axis=1)
            cross = -term @ x[variable]
            hessian[:, c, c + 1] += cross
            hessian[:, c + 1, c] += cross
            hessian[:, c + 1, c + 1] += term @ x[variable] ** 2
        return hessian

    def log_optimal_n(self, theta: Array, centre: Centre, flops: float | Array) -> Array:
        """Return ln N* (B,) at a budget C = 6 N D (one, or one each): alpha term_N = beta term_D there."""
        assert self.variables == ("N", "D"), "an allocation needs a law of N and D"
        c_n, alpha, c_d, beta = theta[:, int(self.floor) :].T
        total = np.log(flops / 6) - centre.means["N"] - centre.means["D"]  # x_N + x_D on the budget
        balance = c_n + np.log(np.maximum(alpha, 1e-12)) - c_d - np.log(np.maximum(beta, 1e-12))
        return np.asarray((balance + beta * total) / (alpha + beta) + centre.means["N"])

    def starts(self, x: Logs, loss: Array) -> Array:
        return self._starts_and_corners(x, loss)[0]

    def corners(self, x: Logs, loss: Array) -> Array:
        return self._starts_and_corners(x, loss)[1]

    def _starts_and_corners(self, x: Logs, loss: Array) -> tuple[Array, Array]:
        return power_starts([x[v] for v in self.variables], loss, floor=self.floor)

    def public(self, theta: Array, centre: Centre) -> Array:
        first = int(self.floor)
        exponents = theta[:, first + 1 :: 2]
        means = np.array([centre.means[v] for v in self.variables])
        coefficients = np.exp(np.minimum(theta[:, first::2] + exponents * means, 700.0))
        floors = [np.exp(theta[:, :1])] if self.floor else []
        return np.concatenate([*floors, coefficients, exponents], axis=1)

    def internal(self, public: Array, centre: Centre) -> Array:
        """Return internal parameters (B, p) for published ones: the inverse of `public`."""
        first, count = int(self.floor), len(self.variables)
        theta = np.empty_like(public)
        if self.floor:
            theta[:, 0] = np.log(public[:, 0])
        exponents = public[:, first + count :]
        means = np.array([centre.means[v] for v in self.variables])
        theta[:, first::2] = np.log(public[:, first : first + count]) - exponents * means
        theta[:, first + 1 :: 2] = exponents
        return theta


CHINCHILLA = PowerSum("chinchilla", "Hoffmann et al. 2022, arXiv 2203.15556, approach 3", ("N", "D"))
KAPLAN = "Kaplan et al. 2020, arXiv 2001.08361, section 1.2"
ONE_VARIABLE = {
    f"power-{v}{'-floor' if floor else ''}": PowerSum(
        f"power-{v}{'-floor' if floor else ''}", KAPLAN + (", with a floor" if floor else ""), (v,), floor
    )
    for v in ("N", "D", "C")
    for floor in (False, True)
}
