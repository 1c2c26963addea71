"""Several families under one law: common E, exponents and coefficients, and multipliers of N and D for each family.

    L = E + A/(rho_N N)^alpha + B/(rho_D D)^beta

rho_N = 0.5 says: this family needs twice the parameters of the first one for the same loss. FLOPs at equal loss
go as 1/(rho_N rho_D). Families come as indicator columns `is:<name>` whose logarithm is 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, Logs
from launch.scaling.laws.powers import COEFFICIENTS, PowerSum

PREFIX = "is:"
ABSENT = 15.0  # fall of the log of a term that leaves nothing of it


def indicator_columns(groups: NDArray[np.str_], reference: str) -> dict[str, Array]:
    """Return one column for each group but the reference: e where a row belongs to it, 1 elsewhere."""
    others = sorted(set(groups) - {reference})
    return {PREFIX + name: np.where(groups == name, np.e, 1.0) for name in others}


@dataclass(frozen=True)
class SharedExponents:
    """theta = that of the common law, then for each variable and group the shift of its log term: exponent log rho."""

    common: PowerSum
    groups: tuple[str, ...]  # without the reference group
    name: str = "shared-exponents"
    source: str = "one law for all families, with multipliers of N and D"

    @property
    def variables(self) -> tuple[str, ...]:
        return (*self.common.variables, *self.uncentred)

    @property
    def uncentred(self) -> tuple[str, ...]:
        return tuple(PREFIX + g for g in self.groups)

    @property
    def params(self) -> tuple[str, ...]:
        return (*self.common.params, *(f"rho_{v}[{g}]" for v in self.common.variables for g in self.groups))

    @property
    def positive(self) -> frozenset[str]:
        return self.common.positive | {p for p in self.params if p.startswith("rho_")}

    @property
    def formula(self) -> str:
        terms = [f"{a}/(rho_{v} {v})^{e}" for v in self.common.variables for a, e in [COEFFICIENTS[v]]]
        return "L = " + " + ".join((["E"] if self.common.floor else []) + terms)

    def log_loss(self, theta: Array, x: Logs) -> tuple[Array, Array]:
        size = len(self.common.params)
        moved = self._moved(theta, x)
        if not moved:
            return self.common.log_loss(theta, x)
        # exp(a - alpha x - shift) is the common law at x + shift / alpha, which has no meaning at alpha = 0: shift a.
        shares, total = self._terms(theta[:, :size], x, moved)
        jacobian = [shares[0]] if self.common.floor else []
        first = int(self.common.floor)
        for k, v in enumerate(self.common.variables):
            jacobian += [shares[first + k], -x[v] * shares[first + k]]
        for k in range(len(self.common.variables)):
            jacobian += [-x[PREFIX + g] * shares[first + k] for g in self.groups]
        return np.log(total), np.stack(jacobian, axis=1)

    def _moved(self, theta: Array, x: Logs) -> list[Array]:
        """Return for each variable the sum of shifts (B, n) of the rows' groups."""
        size, count = len(self.common.params), len(self.groups)
        moved = []
        for k in range(len(self.common.variables)):
            shifts = theta[:, size + k * count : size + (k + 1) * count]
            moved.append(np.sum([shifts[:, i, None] * x[PREFIX + g] for i, g in enumerate(self.groups)], axis=0))
        return moved if count else []

    def _terms(self, theta: Array, x: Logs, moved: list[Array]) -> tuple[list[Array], Array]:
        first = int(self.common.floor)
        terms = []
        for k, v in enumerate(self.common.variables):
            log_term = theta[:, first + 2 * k, None] - theta[:, first + 2 * k + 1, None] * x[v] - moved[k]
            terms.append(np.exp(np.clip(log_term, -60.0, 60.0)))
        if self.common.floor:
            terms.insert(0, np.broadcast_to(np.exp(np.maximum(theta[:, :1], -60.0)), terms[0].shape))
        total = np.sum(terms, axis=0)
        return [t / total for t in terms], total

    def curvature(self, theta: Array, x: Logs, weights: Array) -> Array:
        # log L is the log of a sum of exponentials of linear functions l_k of theta: with shares s_k its Hessian is
        # sum_k s_k (grad l_k)(grad l_k)' - (grad log L)(grad log L)'.
        jacobian = self.log_loss(theta, x)[1]
        hessian = -(jacobian * weights[:, None, :]) @ jacobian.transpose(0, 2, 1)
        if self.common.floor:
            hessian[:, 0, 0] += np.einsum("bn,bn->b", jacobian[:, 0], weights)
        size, count, first = len(self.common.params), len(self.groups), int(self.common.floor)
        for k, v in enumerate(self.common.variables):
            shifts = size + k * count
            mine = [first + 2 * k, first + 2 * k + 1, *range(shifts, shifts + count)]
            slopes = np.stack([np.ones_like(x[v]), -x[v], *(-x[PREFIX + g] for g in self.groups)])
            hessian[:, np.array(mine)[:, None], mine] += (jacobian[:, mine] * weights[:, None, :]) @ slopes.T
        return np.asarray(hessian)

    def starts(self, x: Logs, loss: Array) -> Array:
        return self._with_equal_groups(self.common.starts(x, loss))

    def corners(self, x: Logs, loss: Array) -> Array:
        """Return the common law's corners, and places where a term serves only one group, or all but one."""
        size, first = len(self.common.params), int(self.common.floor)
        base = self.starts(x, loss)[0]
        corners = [*self._with_equal_groups(self.common.corners(x, loss))]
        for column in range(size, len(base)):
            term = first + 2 * ((column - size) // len(self.groups))
            without, alone = base.copy(), base.copy()
            without[column] += ABSENT
            alone[column] -= ABSENT
            alone[term] -= ABSENT
            corners += [without, alone]
        return np.array(corners)

    def of_family(self, theta: Array, family: str) -> Array:
        """Return internal parameters (B, p) of the common law with one family's coefficients."""
        size, count, first = len(self.common.params), len(self.groups), int(self.common.floor)
        own = theta[:, :size].copy()
        if family in self.groups:
            shifts = size + self.groups.index(family) + count * np.arange(len(self.common.variables))
            own[:, first : first + 2 * len(shifts) : 2] -= theta[:, shifts]
        return own

    def _with_equal_groups(self, common: Array) -> Array:
        extra = len(self.groups) * len(self.common.variables)
        return np.concatenate([common, np.zeros((len(common), extra))], axis=1)

    def public(self, theta: Array, centre: Centre) -> Array:
        size, first = len(self.common.params), int(self.common.floor)
        exponents = theta[:, first + 1 : size : 2]
        rhos = []
        for k in range(len(self.common.variables)):
            shifts = theta[:, size + k * len(self.groups) : size + (k + 1) * len(self.groups)]
            rhos.append(np.exp(np.clip(shifts / exponents[:, k, None], -700, 700)))
        return np.concatenate([self.common.public(theta[:, :size], centre), *rhos], axis=1)


@dataclass(frozen=True)
class Behind:
    """How many times the parameters, tokens and FLOPs of the reference a group needs for the same loss.

    Each is (value, low, high); the ends are those of the replicates, or None without them.
    """

    group: str
    parameters: tuple[float, float | None, float | None] | None
    tokens: tuple[float, float | None, float | None] | None
    flops: tuple[float, float | None, float | None] | None  # 6 N D; None unless N and D are both in the law
    exact_flops: tuple[float, float | None, float | None] | None = None  # where the table counts them


def behind(law: SharedExponents, values: Array, draws: Array | None) -> list[Behind]:
    """Compare every group with the reference; `values` (1, p) and `draws` (R, p) are published parameters."""
    found = []
    for group in law.groups:
        columns = {v: law.params.index(f"rho_{v}[{group}]") for v in law.common.variables}
        factors = {v: _multiple(values[:, k], None if draws is None else draws[:, k]) for v, k in columns.items()}
        both = list(columns.values())
        flops = _multiple(values[:, both].prod(axis=1), None if draws is None else draws[:, both].prod(axis=1))
        found.append(Behind(group, factors.get("N"), factors.get("D"), flops if len(both) == 2 else None))
    return found


def _multiple(rho: Array, draws: Array | None) -> tuple[float, float | None, float | None]:
    if draws is None:
        return float(1 / rho[0]), None, None
    low, high = np.quantile(1 / draws, [0.025, 0.975])
    return float(1 / rho[0]), float(low), float(high)
