"""A batched damped Newton method for robust fits of laws.

Many problems of the same law are solved at once: starts, bootstrap replicates, points of a profile. Far from the
optimum the matrix is that of iteratively reweighted least squares (a majorant: it always descends); near it the
exact Hessian takes over and converges quadratically. Both are damped as Levenberg and Marquardt do.
Legend: B problems, n rows, p parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.large import LARGEST_BATCH, LOG, STEPS_OF_PROFILE, first_step, is_large
from launch.scaling.fit.problem import Problem
from launch.scaling.laws.base import FromJacobian

MAX_STEPS = 200
NEWTON_AFTER = 2e-2  # relative decrease of one step below which the exact Hessian is used
LARGEST_STEP = 2.0  # in internal parameters, which are logarithms and exponents
CONVERGED = 1e-13  # expected relative decrease


@dataclass(frozen=True)
class Pin:
    """Soft constraints g(theta) = target, stiff enough to hold: used for profiles.

    `quantity` (B,) says which g holds for each problem; `function(theta, quantity)` returns values (B,) and gradients
    (B, p). `target` and `stiffness` are (B,).
    """

    function: Callable[[Array, Array], tuple[Array, Array]]
    quantity: Array
    target: Array
    stiffness: Array


@dataclass(frozen=True)
class Solutions:
    """theta (B, p), the objective (B,) without any pin, and the infinity norm of the gradient (B,)."""

    theta: Array
    objective: Array
    gradient_norm: Array


@dataclass
class _State:
    """Everything about the problems that are still active."""

    theta: Array
    weights: Array
    pin: Array | None  # (B, 3): quantity, target, stiffness
    damping: Array
    newton: Array
    residual: Array
    jacobian: Array
    cost: Array

    def keep(self, mask: Array) -> None:
        for name, value in vars(self).items():
            if value is not None:
                setattr(self, name, value[mask])


def minimise(problem: Problem, start: Array, *, pin: Pin | None = None, max_steps: int = MAX_STEPS) -> Solutions:
    """Minimise the objective of `problem` from each start (B, p). No solution is higher than its start.

    Needs no bounds: coefficients are positive by construction. Cost: O(steps B n p^2). Of a large table as many
    problems are solved at once as fit into `LARGEST_BATCH`, with few steps where starts are near by construction: for
    points of a profile, and for replicates, which take one step together (`launch/scaling/fit/large.py`).
    """
    if is_large(problem):
        steps = max_steps if pin is None else min(max_steps, STEPS_OF_PROFILE)
        if max_steps and problem.replicated and pin is None and (start == start[0]).all():
            start, steps = first_step(problem, start), 0
        return _in_parts(problem, start, pin, steps)
    return _minimise(problem, start, pin, max_steps)


def _in_parts(problem: Problem, start: Array, pin: Pin | None, max_steps: int) -> Solutions:
    size = max(1, LARGEST_BATCH // (problem.rows * start.shape[1]))
    found = []
    for first in range(0, len(start), size):
        part = slice(first, first + size)
        some = None if pin is None else Pin(pin.function, pin.quantity[part], pin.target[part], pin.stiffness[part])
        found.append(_minimise(problem.part(part), start[part], some, max_steps))
        done = min(first + size, len(start))
        LOG.info("%s: %d of %d fits to %d rows", problem.law.name, done, len(start), problem.rows)
    theta, objective, gradient = (
        np.concatenate([getattr(f, name) for f in found]) for name in ("theta", "objective", "gradient_norm")
    )
    return Solutions(theta, objective, gradient)


def _minimise(problem: Problem, start: Array, pin: Pin | None, max_steps: int) -> Solutions:
    num = len(start)
    targets = np.broadcast_to(problem.target, (num, problem.rows))
    counts = np.broadcast_to(problem.counts, (num, problem.rows))
    solver = _Solver(problem, pin)
    theta_out, active = start.astype(float).copy(), np.arange(num)
    state = solver.begin(theta_out, targets, counts)
    open_targets = targets
    for _ in range(max_steps):
        done = solver.advance(state, open_targets)
        if done.any():
            theta_out[active] = state.theta
            active, open_targets = active[~done], open_targets[~done]
            state.keep(~done)
            if not len(active):
                break
    theta_out[active] = state.theta
    final = state if not max_steps and pin is None else solver.begin(theta_out, targets, counts, with_pin=False)
    gradient = solver.gradient(final, None)
    return Solutions(theta_out, final.cost, np.abs(gradient).max(axis=1))


@dataclass(frozen=True)
class _Solver:
    problem: Problem
    pin: Pin | None

    @cached_property
    def known_jacobian(self) -> FromJacobian | None:
        """The law, where its curvature follows from the Jacobian of log loss, which each step has at hand."""
        law = self.problem.law
        return law if self.problem.cost.on == "log" and isinstance(law, FromJacobian) else None

    def cost(self, residual: Array, weights: Array, theta: Array, pin: Array | None) -> Array:
        cost = self.problem.sum(residual, weights)
        if self.pin is not None and pin is not None:
            cost = cost + 0.5 * pin[:, 2] * (self.pin.function(theta, pin[:, 0])[0] - pin[:, 1]) ** 2
        return cost

    def begin(self, theta: Array, target: Array, weights: Array, with_pin: bool = True) -> _State:
        residual, jacobian = self.problem.evaluate(theta, target)
        pin = None
        if self.pin is not None and with_pin:
            pin = np.stack([self.pin.quantity, self.pin.target, self.pin.stiffness], axis=1)
        cost = self.cost(residual, weights, theta, pin)
        num = len(theta)
        return _State(
            theta.copy(),
            weights,
            pin,
            np.full(num, 1e-2),
            np.zeros(num, bool),
            residual,
            jacobian,
            cost,
        )

    def gradient(self, state: _State, pin_terms: tuple[Array, Array] | None) -> Array:
        pull = state.weights * self.problem.cost.psi(state.residual)
        gradient = np.einsum("bpn,bn->bp", state.jacobian, pull)
        if pin_terms is not None and state.pin is not None:
            values, slopes = pin_terms
            gradient = gradient + (state.pin[:, 2] * (values - state.pin[:, 1]))[:, None] * slopes
        return np.asarray(gradient)

    def matrices(self, state: _State, pin_terms: tuple[Array, Array] | None) -> tuple[Array, Array]:
        """Return the matrix of the step and the diagonal that damps it."""
        majorant = state.weights * self.problem.cost.weight(state.residual)
        transposed = state.jacobian.transpose(0, 2, 1)
        matrix = (state.jacobian * majorant[:, None, :]) @ transposed
        diagonal = np.einsum("bpp->bp", matrix).copy()
        near = state.newton
        if near.any():
            matrix[near] = self._hessian(state, near)
        if pin_terms is not None and state.pin is not None:
            slopes = pin_terms[1]
            matrix = matrix + state.pin[:, 2, None, None] * slopes[:, :, None] * slopes[:, None, :]
        return matrix, diagonal

    def _hessian(self, state: _State, near: Array) -> Array:
        residual, jacobian, counts = state.residual[near], state.jacobian[near], state.weights[near]
        pull = counts * self.problem.cost.psi(residual)
        slope = counts * self.problem.cost.slope(residual)
        if self.problem.cost.on != "log":  # d2 of exp(f) = exp(f) (d2 f + df df'), and jacobian = exp(f) df
            predicted = np.exp(self.problem.law.log_loss(state.theta[near], self.problem.x)[0])
            slope = slope + pull / predicted
            pull = pull * predicted
        exact = (jacobian * slope[:, None, :]) @ jacobian.transpose(0, 2, 1)
        if self.known_jacobian is not None:
            return np.asarray(exact + self.known_jacobian.curvature_from(jacobian, self.problem.x, pull))
        return np.asarray(exact + self.problem.law.curvature(state.theta[near], self.problem.x, pull))

    def advance(self, state: _State, target: Array) -> Array:
        """Take one damped step of each problem; return which problems are done."""
        pinned = None if self.pin is None or state.pin is None else self.pin.function(state.theta, state.pin[:, 0])
        gradient = self.gradient(state, pinned)
        matrix, diagonal = self.matrices(state, pinned)
        scale = diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
        step = _solve_damped(matrix, scale * state.damping[:, None], gradient)
        expected = -np.einsum("bp,bp->b", gradient, step)
        trial = state.theta + step
        residual, jacobian = self.problem.evaluate(trial, target)
        cost = self.cost(residual, state.weights, trial, state.pin)
        better = (cost < state.cost) & (expected > 0)
        negligible = np.abs(expected) <= CONVERGED * state.cost + 1e-30
        relative = (state.cost - cost) / np.maximum(state.cost, 1e-300)
        self._accept(state, better, trial, residual, jacobian, cost)
        done = (negligible & (state.damping < 1e3)) | (state.damping > 1e12)
        state.damping = np.where(better, np.maximum(state.damping / 8, 1e-14), state.damping * 6)
        misled = state.newton & ~better  # the exact Hessian is not convex here: go on with the majorant
        state.damping = np.where(misled & ~done, np.minimum(state.damping, 1e-2), state.damping)
        state.newton = (state.newton & better) | (better & (relative < NEWTON_AFTER))
        done_mask: Array = done
        return done_mask

    @staticmethod
    def _accept(state: _State, better: Array, trial: Array, residual: Array, jacobian: Array, cost: Array) -> None:
        if better.all():
            state.theta, state.residual, state.jacobian, state.cost = trial, residual, jacobian, cost
            return
        state.theta = np.where(better[:, None], trial, state.theta)
        state.residual = np.where(better[:, None], residual, state.residual)
        state.jacobian[better] = jacobian[better]
        state.cost = np.where(better, cost, state.cost)


def _solve_damped(matrix: Array, damping: Array, gradient: Array) -> Array:
    """Return -(matrix + diag(damping))^-1 gradient, no entry longer than LARGEST_STEP."""
    damped = matrix.copy()
    diagonal = np.einsum("bpp->bp", damped)
    diagonal += damping
    try:
        step = -np.linalg.solve(damped, gradient[..., None])[..., 0]
    except np.linalg.LinAlgError:  # one exactly singular problem would stop all
        inverse = np.linalg.pinv(np.nan_to_num(damped, posinf=1e100, neginf=-1e100), hermitian=True)
        step = -(inverse @ gradient[..., None])[..., 0]
    if not np.isfinite(step).all():
        step = np.nan_to_num(step, nan=0.0, posinf=LARGEST_STEP, neginf=-LARGEST_STEP)
    longest = np.abs(step).max(axis=1, keepdims=True)
    return np.asarray(step * np.minimum(1.0, LARGEST_STEP / np.maximum(longest, 1e-300)))
