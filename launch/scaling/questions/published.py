"""A law as somebody published it, beside the one that is fitted to the same runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted
from launch.scaling.fit.search import ROUNDING
from launch.scaling.laws.given import complete
from trainer.contract.errors import UserError

SAME = 1e-8  # relative error of published parameters below which internal ones stand for them
STARTS = 8  # of the search for internal ones


@dataclass(frozen=True)
class Against:
    """How well given parameters describe the runs of a fit, under the fit's objective.

    `mean_error` and `largest_error` are of the predicted loss, relative; `outside` names the parameters that lie
    outside the fit's 95 % intervals.
    """

    params: dict[str, float]
    objective: float
    times_the_optimum: float
    mean_error: float
    largest_error: float
    outside: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return all of it for `--json`."""
        return asdict(self)


def compare(fitted: Fitted, given: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> Against:
    """Judge `given`, a value for each parameter of the law, by the runs of `fitted`.

    Raises `UserError` where a parameter is missing, unknown or impossible.
    """
    named = complete("--against", fitted.law, given)
    published = replace(fitted, theta=_internal(fitted, named), draws=None)
    cost = fitted.cost
    residuals = published.residuals if cost.on == "log" else published.predict(fitted.columns) - fitted.loss
    objective = float(cost.rho(residuals).sum())
    errors = np.abs(np.expm1(published.residuals))
    outside = tuple(n for n, v in named.items() if n in intervals and not _inside(v, *intervals[n]))
    least = ROUNDING * len(fitted.loss)  # runs without noise: a ratio of what rounding left says nothing
    times = max(objective, least) / max(fitted.objective, least)
    return Against(named, objective, times, float(errors.mean()), float(errors.max()), outside)


def _inside(value: float, low: float, high: float) -> bool:
    return low - SAME * abs(value) <= value <= high + SAME * abs(value)


def _internal(fitted: Fitted, named: Mapping[str, float]) -> Array:
    """Return internal parameters (p,) that stand for published ones: the inverse of `Law.public`, by least squares."""
    from scipy.optimize import least_squares  # only this question pays for scipy

    law = fitted.law
    positive = np.array([n in law.positive for n in law.params])
    wanted = np.array([named[n] for n in law.params])
    target = np.where(positive, np.log(np.where(positive, wanted, 1.0)), wanted)

    def off(theta: Array) -> Array:
        public = law.public(theta[None], fitted.centre)[0]
        return np.where(positive, np.log(np.maximum(np.where(positive, public, 1.0), 1e-300)), public) - target

    starts = np.vstack([fitted.theta, law.starts(fitted.centre.logs(fitted.columns), fitted.loss)])
    nearest = np.argsort([np.abs(off(start)).max() for start in starts], kind="stable")[:STARTS]
    for start in starts[nearest]:  # an optimum where a term is absent is no way to a law that has it
        found: Array = least_squares(off, start, xtol=1e-15, ftol=1e-15, gtol=1e-15).x
        if np.abs(off(found)).max() <= SAME * max(1.0, float(np.abs(target).max())):
            return found
    raise UserError(f"--against: {law.formula} cannot take these values together")
