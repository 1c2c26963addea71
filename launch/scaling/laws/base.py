"""What every law offers to the solver, and the centring of its variables.

Legend: B batch of problems, n rows of the table, p parameters. A law works on *internal* parameters theta
(B, p), chosen so that the problem is well conditioned: logarithms of coefficients at the centre of the data, and plain
exponents. `public` turns them into the numbers that papers print.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from launch.scaling.arrays import Array

Logs = Mapping[str, Array]


@dataclass(frozen=True)
class Centre:
    """Means of the logarithms of the variables over the fitted rows."""

    means: Mapping[str, float]

    @staticmethod
    def of(columns: Mapping[str, Array], law: Law) -> Centre:
        """Return the centre of these rows for a law; variables that it takes as they are get the mean 0."""
        return Centre({v: 0.0 if v in law.uncentred else float(np.mean(np.log(columns[v]))) for v in law.variables})

    def logs(self, columns: Mapping[str, Array]) -> dict[str, Array]:
        """Return centred logarithms of `columns` for each variable of the law."""
        return {v: np.log(np.asarray(columns[v], float)) - mean for v, mean in self.means.items()}


class Law(Protocol):
    """One functional form of the loss."""

    @property
    def name(self) -> str:
        """What `--law` calls it."""

    @property
    def formula(self) -> str:
        """How it is written."""

    @property
    def source(self) -> str:
        """Paper and section."""

    @property
    def variables(self) -> tuple[str, ...]:
        """The columns of a table that it needs besides the loss."""

    @property
    def uncentred(self) -> tuple[str, ...]:
        """Variables whose logarithms the law wants as they are."""
        ...

    @property
    def params(self) -> tuple[str, ...]:
        """Public names, in the order of `public`."""
        ...

    @property
    def positive(self) -> frozenset[str]:
        """Names of the public parameters that are positive and so are profiled as logarithms."""
        ...

    def log_loss(self, theta: Array, x: Logs) -> tuple[Array, Array]:
        """Return log predictions (B, n) and their Jacobian (B, p, n)."""
        ...

    def curvature(self, theta: Array, x: Logs, weights: Array) -> Array:
        """Return the sum over rows of weights (B, n) times the Hessian of each log prediction: (B, p, p)."""
        ...

    def starts(self, x: Logs, loss: Array) -> Array:
        """Return starting points (B, p), spread over all that is plausible."""
        ...

    def public(self, theta: Array, centre: Centre) -> Array:
        """Return the published parameters (B, len(params))."""
        ...


@runtime_checkable
class WithCorners(Protocol):
    """A law whose optimum may lie where its starts hardly lead: a term is absent, or serves a few runs at one end."""

    def corners(self, x: Logs, loss: Array) -> Array:
        """Return starting points (C, p) there. They do not count in the share of starts that agree."""
        ...


@runtime_checkable
class FromJacobian(Protocol):
    """A law whose curvature follows from its Jacobian, so that a solver need not evaluate it twice."""

    def curvature_from(self, jacobian: Array, x: Logs, weights: Array) -> Array:
        """Return `Law.curvature` (B, p, p) from the Jacobian (B, p, n)."""
        ...


MULTIPLIERS = frozenset({"A", "B", "K", "a", "b", "Nc", "Dc"})  # their values depend on the units of N, D and C


@runtime_checkable
class Demanding(Protocol):
    """A law that needs more of a table than runs at as many points as it has parameters."""

    def obstacles(self, columns: Mapping[str, Array]) -> list[str]:
        """Return why runs at these places cannot tell its parameters, whatever the losses."""
        ...


@runtime_checkable
class ClosedForm(Protocol):
    """A law of N and D whose best N for a budget has a closed form."""

    def log_optimal_n(self, theta: Array, centre: Centre, flops: float | Array) -> Array:
        """Return ln N* (B,) at a budget C = 6 N D: one budget, or one for each problem."""
        ...


def numeric_curvature(law: Law, theta: Array, x: Logs, weights: Array, step: float = 1e-5) -> Array:
    """Return `Law.curvature` by central differences of the analytic Jacobian, for laws without a closed form."""
    num_params = theta.shape[1]
    columns = []
    for k in range(num_params):
        shift = np.zeros(num_params)
        shift[k] = step
        high = law.log_loss(theta + shift, x)[1]
        low = law.log_loss(theta - shift, x)[1]
        columns.append(np.einsum("bpn,bn->bp", high - low, weights) / (2 * step))
    hessian = np.stack(columns, axis=2)
    return np.asarray((hessian + hessian.transpose(0, 2, 1)) / 2)
