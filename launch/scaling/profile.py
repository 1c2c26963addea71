"""Profile likelihoods: how much worse the best fit gets when one quantity is held at another value.

For Huber's objective the difference is scaled so that it has a chi-squared distribution with one degree of freedom
when the law holds (the rho test of Hampel, Ronchetti, Rousseeuw & Stahel 1986, section 7.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from launch.scaling.fit import Fitted
from launch.scaling.objective import Array
from launch.scaling.solve import Pin, minimise

CHI2_95 = 3.841458820694124
OFFSETS = (-3.4, -2.4, -1.2, 1.2, 2.4, 3.4)  # in standard deviations
MAX_STEPS = 30
STIFF = 1e4  # how much stiffer a pin is than the data
LARGEST_SD = 25.0  # of a logarithm or exponent; beyond it there is nothing to profile

Quantity = Callable[[Array], Array]  # internal parameters (B, p) -> values (B,)


@dataclass(frozen=True)
class Profile:
    """The profile of one quantity. `deviance` is on the chi-squared scale."""

    name: str
    best: float
    values: Array
    deviance: Array
    interval: tuple[float, float]  # 95 %, infinite where the profile never rises enough


@dataclass(frozen=True)
class Spread:
    """Scale of an M-estimator: covariance = tau2 (J J')^-1, deviance = 2 (difference of objectives) / kappa."""

    tau2: float
    kappa: float
    information: Array  # J J', (p, p), internal parameters
    exact: bool  # residuals are rounding only: nothing is uncertain but the rounding

    @property
    def covariance(self) -> Array:
        return np.asarray(self.tau2 * np.linalg.pinv(self.information, rcond=1e-14, hermitian=True))


def spread(fitted: Fitted) -> Spread:
    """Estimate the scale from the residuals (Huber 1981, section 7.6), with n - p degrees of freedom."""
    log_loss, jacobian = fitted.law.log_loss(fitted.theta[None], fitted.centre.logs(fitted.columns))
    residual = log_loss[0] - np.log(fitted.loss)
    jacobian = jacobian[0]
    if fitted.cost.on != "log":
        predicted = np.exp(log_loss[0])
        residual, jacobian = predicted - fitted.loss, jacobian * predicted
    rows, freedom = len(residual), max(1, len(residual) - fitted.num_params)
    psi2 = float(np.sum(fitted.cost.psi(residual) ** 2)) / freedom
    slope = _mean_slope(residual, fitted.cost.delta)
    exact = float(np.median(np.abs(residual))) < 1e-9
    return Spread(psi2 / slope**2, max(psi2 / slope, 1e-300), jacobian @ jacobian.T, exact and rows > 1)


def _mean_slope(residual: Array, delta: float) -> float:
    """Return the mean of psi', smoothed where hardly any residual lies inside the threshold."""
    if np.isinf(delta):
        return 1.0
    width = max(delta, 0.35 * float(np.median(np.abs(residual))) / 0.6745)
    inside = max(float(np.mean(np.abs(residual) <= width)), 1.0 / len(residual))
    return inside * delta / width


def gradient_of(quantity: Quantity, theta: Array, step: float = 1e-4) -> Array:
    """Return the gradient (B, p) of a smooth quantity by central differences, in one call."""
    num, size = theta.shape
    shifts = step * np.concatenate([np.eye(size), -np.eye(size)])
    values = quantity((theta[:, None, :] + shifts).reshape(-1, size)).reshape(num, 2, size)
    return np.asarray((values[:, 0] - values[:, 1]) / (2 * step))


def profile_all(fitted: Fitted, quantities: dict[str, Quantity]) -> dict[str, Profile]:
    """Refit with each quantity held at values on both sides of its optimum, all in one batch."""
    scale = spread(fitted)
    best = {name: float(q(fitted.theta[None])[0]) for name, q in quantities.items()}
    sds = {name: min(standard_deviation(fitted, q, scale), LARGEST_SD) for name, q in quantities.items()}
    held = [name for name in quantities if sds[name] > 0 and not scale.exact]
    profiles = {n: Profile(n, b, np.array([b]), np.zeros(1), (b, b)) for n, b in best.items()}
    if held:
        offsets = np.array(OFFSETS)
        targets = np.concatenate([best[n] + sds[n] * offsets for n in held])
        starts = [_along(fitted, quantities[n], scale, sds[n] * offsets) for n in held]
        stiffness = np.repeat([STIFF * scale.kappa / sds[n] ** 2 for n in held], len(offsets))
        owner = np.repeat(np.arange(len(held)), len(offsets))
        pin = Pin(_by_owner([quantities[n] for n in held]), owner, targets, stiffness)
        x = fitted.centre.logs(fitted.columns)
        found = minimise(fitted.law, np.concatenate(starts), x, fitted.loss, fitted.cost, pin=pin, max_steps=MAX_STEPS)
        rise = 2 * (found.objective - fitted.objective) / scale.kappa
        for k, name in enumerate(held):
            values = quantities[name](found.theta[owner == k])
            profiles[name] = _profile(name, best[name], values, rise[owner == k])
    return profiles


def _by_owner(quantities: list[Quantity]) -> Callable[[Array, Array], tuple[Array, Array]]:
    def evaluate(theta: Array, owner: Array) -> tuple[Array, Array]:
        values, slopes = np.empty(len(theta)), np.empty_like(theta)
        for k in np.unique(owner):
            mine = owner == k
            quantity = quantities[int(k)]
            values[mine], slopes[mine] = quantity(theta[mine]), gradient_of(quantity, theta[mine])
        return values, slopes

    return evaluate


def _profile(name: str, best: float, values: Array, rise: Array) -> Profile:
    values, deviance = np.append(values, best), np.append(rise, 0.0)
    order = np.argsort(values)
    values, deviance = values[order], np.maximum(deviance[order], 0.0)
    return Profile(name, best, values, deviance, _interval(values, deviance, best))


def standard_deviation(fitted: Fitted, quantity: Quantity, scale: Spread) -> float:
    """Return the asymptotic standard deviation of a quantity (delta method)."""
    slope = gradient_of(quantity, fitted.theta[None])[0]
    return float(np.sqrt(max(slope @ scale.covariance @ slope, 0.0)))


def _along(fitted: Fitted, quantity: Quantity, scale: Spread, shifts: Array) -> Array:
    """Start each pinned fit where the quadratic approximation puts it."""
    slope = gradient_of(quantity, fitted.theta[None])[0]
    direction = scale.covariance @ slope
    length = float(slope @ direction)
    return np.asarray(fitted.theta + np.clip(shifts[:, None] * direction / length, -3.0, 3.0))


def _interval(values: Array, deviance: Array, best: float) -> tuple[float, float]:
    """Interpolate where the root of the deviance crosses that of the 95 % point, on either side."""
    root, wanted = np.sqrt(deviance), CHI2_95**0.5
    ends = []
    for side in (values <= best, values >= best):
        distance = np.abs(values[side] - best)
        order = np.argsort(distance)
        heights = np.maximum.accumulate(root[side][order])
        if heights[-1] < wanted:
            ends.append(np.inf)
        else:
            ends.append(float(np.interp(wanted, heights, distance[order])))
    return best - ends[0], best + ends[1]
