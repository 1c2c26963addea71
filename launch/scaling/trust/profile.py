"""Profile likelihoods: how much worse the best fit gets when one quantity is held at another value.

For Huber's objective the difference is scaled so that it has a chi-squared distribution with one degree of freedom
when the law holds (the rho test of Hampel, Ronchetti, Rousseeuw & Stahel 1986, section 7.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array, robust_sd
from launch.scaling.fit.fit import Fitted
from launch.scaling.fit.newton import Pin, minimise
from launch.scaling.trust.quantiles import student_95

OFFSETS = (-3.4, -2.4, -1.2, 1.2, 2.4, 3.4)  # in standard deviations
FURTHER = (5.0, 8.0, 14.0, 30.0)  # where a first look did not reach the end of the interval
FEW = 12  # degrees of freedom below which a robust scale cannot be estimated
MAX_STEPS = 30
MISSED = 0.3  # in standard deviations: a pinned fit that ends further off has failed
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
    freedom: int
    exact: bool  # residuals are rounding only: nothing is uncertain but the rounding

    @property
    def covariance(self) -> Array:
        """Return the covariance of the parameters (p, p)."""
        return np.asarray(self.tau2 * np.linalg.pinv(self.information, rcond=1e-14, hermitian=True))


def spread(fitted: Fitted) -> Spread:
    """Estimate the scale from the residuals (Huber 1981, section 7.6), with n - p degrees of freedom."""
    log_loss, jacobian = fitted.law.log_loss(fitted.theta[None], fitted.centre.logs(fitted.columns))
    residual = log_loss[0] - np.log(fitted.loss)
    jacobian = jacobian[0]
    if fitted.cost.on != "log":
        predicted = np.exp(log_loss[0])
        residual, jacobian = predicted - fitted.loss, jacobian * predicted
    freedom = max(1, len(residual) - fitted.num_params)
    psi2 = float(np.sum(fitted.cost.psi(residual) ** 2)) / freedom
    slope = _mean_slope(residual, fitted.cost.delta, fitted.num_params)
    tau2, kappa = psi2 / slope**2, psi2 / slope
    if freedom < FEW and np.isfinite(fitted.cost.delta):
        # With few rows most residuals of a robust fit are zero and say nothing: assume normal errors instead,
        # under which the efficiency of the median is 2/pi.
        variance = float(np.sum(residual**2)) / freedom
        tau2 = max(tau2, np.pi / 2 * variance)
        kappa = max(kappa, min(variance, fitted.cost.delta * (np.pi / 2 * variance) ** 0.5))
    exact = float(np.median(np.abs(residual))) < 1e-9
    return Spread(tau2, max(kappa, 1e-300), jacobian @ jacobian.T, freedom, exact)


def _mean_slope(residual: Array, delta: float, num_params: int) -> float:
    """Return the mean of psi', smoothed where hardly any residual lies inside the threshold.

    A robust fit passes through about as many rows as it has parameters: their residuals say nothing about the density
    of errors at zero and are left out (Koenker 2005, Quantile Regression, section 4.10). The window of the density
    narrows as usual with more rows (Silverman 1986, section 3.4).
    """
    if np.isinf(delta):
        return 1.0
    size = np.sort(np.abs(residual))[min(num_params, len(residual) - 1) :]
    width = max(delta, len(size) ** -0.2 * robust_sd(size))
    inside = max(float(np.mean(size <= width)), 1 / len(size))
    return float(inside * delta / width)


def gradient_of(quantity: Quantity, theta: Array, step: float = 1e-4) -> Array:
    """Return the gradient (B, p) of a smooth quantity by central differences, in one call."""
    num, size = theta.shape
    shifts = step * np.concatenate([np.eye(size), -np.eye(size)])
    values = quantity((theta[:, None, :] + shifts).reshape(-1, size)).reshape(num, 2, size)
    return np.asarray((values[:, 0] - values[:, 1]) / (2 * step))


def profile_all(fitted: Fitted, quantities: dict[str, Quantity]) -> dict[str, Profile]:
    """Refit with each quantity held at values on both sides of its optimum, all in one batch.

    A side on which the deviance has not reached its 95 % point is followed further out in a second batch.
    """
    scale = spread(fitted)
    best = {name: float(q(fitted.theta[None])[0]) for name, q in quantities.items()}
    profiles = {n: Profile(n, b, np.array([b]), np.zeros(1), (b, b)) for n, b in best.items()}
    sds = {name: min(standard_deviation(fitted, q, scale), LARGEST_SD) for name, q in quantities.items()}
    wanted = [(n, sds[n] * offset) for n in quantities if sds[n] > 0 and not scale.exact for offset in OFFSETS]
    for _ in range(2):
        found = _pinned_fits(fitted, quantities, best, sds, wanted, scale)
        for name, (values, rise) in found.items():
            old = profiles[name]
            values, rise = np.append(old.values, values), np.append(old.deviance, rise)
            profiles[name] = _profile(name, best[name], values, rise, student_95(scale.freedom))
        wanted = [(n, shift) for n in found for shift in _open_sides(profiles[n], sds[n])]
        if not wanted:
            break
    return profiles


def _open_sides(profile: Profile, sd: float) -> list[float]:
    low, high = profile.interval
    shifts = [] if np.isfinite(low) else [-sd * far for far in FURTHER]
    return shifts + ([] if np.isfinite(high) else [sd * far for far in FURTHER])


def _pinned_fits(
    fitted: Fitted,
    quantities: dict[str, Quantity],
    best: dict[str, float],
    sds: dict[str, float],
    wanted: list[tuple[str, float]],
    scale: Spread,
) -> dict[str, tuple[Array, Array]]:
    """Return for each quantity in `wanted` (name, shift from its optimum) the values reached and the deviances."""
    if not wanted:
        return {}
    names = list(dict.fromkeys(name for name, _ in wanted))
    owner = np.array([names.index(name) for name, _ in wanted])
    shifts = np.array([shift for _, shift in wanted])
    starts = [_along(fitted, quantities[n], scale, shifts[owner == k]) for k, n in enumerate(names)]
    order = np.argsort(owner, kind="stable")
    owner, shifts = owner[order], shifts[order]
    targets = np.array([best[names[k]] for k in owner]) + shifts
    stiffness = np.array([STIFF * scale.kappa / sds[names[k]] ** 2 for k in owner])
    pin = Pin(_by_owner([quantities[n] for n in names]), owner, targets, stiffness)
    found = minimise(fitted.problem(), np.concatenate(starts), pin=pin, max_steps=MAX_STEPS)
    rise = 2 * (found.objective - fitted.objective) / scale.kappa
    answers = {}
    for k, name in enumerate(names):
        mine = owner == k
        values = quantities[name](found.theta[mine])
        held = np.abs(values - targets[mine]) < MISSED * sds[name]  # the others never got there: they say nothing
        answers[name] = (values[held], rise[mine][held])
    return answers


def _by_owner(quantities: list[Quantity]) -> Callable[[Array, Array], tuple[Array, Array]]:
    def evaluate(theta: Array, owner: Array) -> tuple[Array, Array]:
        values, slopes = np.empty(len(theta)), np.empty_like(theta)
        for k in np.unique(owner):
            mine = owner == k
            quantity = quantities[int(k)]
            values[mine], slopes[mine] = quantity(theta[mine]), gradient_of(quantity, theta[mine])
        return values, slopes

    return evaluate


def _profile(name: str, best: float, values: Array, rise: Array, root: float) -> Profile:
    order = np.argsort(values)
    values, deviance = values[order], np.maximum(rise[order], 0.0)
    return Profile(name, best, values, deviance, _interval(values, deviance, best, root))


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


def _interval(values: Array, deviance: Array, best: float, wanted: float) -> tuple[float, float]:
    """Interpolate where the root of the deviance crosses the 95 % point, on either side."""
    root = np.sqrt(deviance)
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
