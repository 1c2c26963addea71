"""Whether an optimum may be believed: every fit ends with a certificate, or is refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted
from launch.scaling.laws.base import MULTIPLIERS, Law
from launch.scaling.laws.optimum import log_optimal_n
from launch.scaling.trust.grades import Status
from launch.scaling.trust.obstacles import obstacles
from launch.scaling.trust.profile import Profile, Quantity, profile_all, spread

FLOOR_UNKNOWN = 0.02  # of the lowest loss: a floor that may lie below it is not identified, unless it is sharp
FLOOR_ABSENT = 1e-6  # of the lowest loss: a floor that is nowhere seen, however sharp its interval
FLOOR_REFUSED, FLOOR_VAGUE = 0.9, 0.45  # width of the floor's interval over its value
ALLOCATION_UNKNOWN = np.log(30.0)  # width of the interval of ln N* at the largest budget
FLAT = np.log(10.0)  # width of the interval of the logarithm of a multiplier
CONDITION_REFUSED, CONDITION_WEAK = 1e7, 1e4
SHARE_WEAK = 0.5
EXPONENTS = frozenset({"alpha", "beta", "gamma"})


@dataclass(frozen=True)
class Certificate:
    """`refused`: the data do not identify what the law claims. `weak`: they do, poorly, for the reasons given.

    A law of N and D is judged by its decision; `unidentified` says which of its parameters the runs leave open, which
    refuses it only in so far as N* or the loss hangs on them.
    """

    status: Status
    reasons: tuple[str, ...]
    share_of_starts: float
    gradient_norm: float
    condition: float
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    unidentified: Mapping[str, str] = field(default_factory=dict)

    def identified(self, law: Law) -> str:
        """Say which parameters the runs identify; empty where nothing was profiled."""
        if not self.profiles:
            return ""
        open_ = {*self.unidentified, *MULTIPLIERS}  # a multiplier hangs on its exponent and on units
        known = [name for name in law.params if name in self.profiles and name not in open_]
        said = f"identified: {', '.join(known) or 'no parameter'}"
        return said + "".join(f"; {why}" for why in self.unidentified.values())

    def intervals(self, law: Law) -> dict[str, tuple[float, float]]:
        """Return the 95 % profile intervals of the published parameters."""
        found = {}
        for name in law.params:
            if name in self.profiles:
                low, high = self.profiles[name].interval
                found[name] = (_back(law, name, low), _back(law, name, high))
        return found


def _back(law: Law, name: str, value: float) -> float:
    return float(np.exp(np.clip(value, -745, 709))) if name in law.positive else value


def refuse(reasons: list[str]) -> Certificate:
    """Return the certificate of a fit that was not made."""
    return Certificate("refused", tuple(reasons), 0.0, float("nan"), float("inf"))


def certify(fitted: Fitted, *, lack_of_fit: str | None = None, tuning: tuple[str, ...] = ()) -> Certificate:
    """Judge a fit. ln N* is profiled at the largest budget of the table.

    `lack_of_fit` is what repeated cells say against the law, `tuning` what the rows' learning rates do.
    """
    law = fitted.law
    reasons = obstacles(law, fitted.columns)
    condition = condition_number(fitted)
    quantities = parameter_quantities(fitted)
    if set(law.variables) == {"N", "D"}:
        budget = float(np.max(6 * fitted.columns["N"] * fitted.columns["D"]))
        quantities["ln N*"] = lambda theta: log_optimal_n(law, theta, fitted.centre, budget)
    profiles = {} if reasons else profile_all(fitted, quantities)
    reasons += _refusals(fitted, profiles, condition)
    floor = {} if reasons else _floor_unknown(fitted, profiles)
    vague = {} if reasons else _vague(fitted, profiles)
    weaknesses = _weaknesses(fitted, condition) + ([lack_of_fit] if lack_of_fit else []) + list(tuning)
    if "ln N*" not in quantities:  # a law of one variable makes no decision: its parameters are what it says
        reasons += floor.values()
        weaknesses += [why for name, why in vague.items() if name not in floor]
    status: Status = "refused" if reasons else ("weak" if weaknesses else "certified")
    return Certificate(
        status,
        tuple(reasons or weaknesses),
        fitted.share_of_starts,
        fitted.gradient_norm,
        condition,
        profiles,
        vague | floor,
    )


def parameter_quantities(fitted: Fitted) -> dict[str, Quantity]:
    """Return each published parameter as a function of theta, as a logarithm where it is positive."""
    law, centre = fitted.law, fitted.centre

    def pick(k: int, log: bool) -> Quantity:
        def quantity(theta: Array) -> Array:
            values = law.public(theta, centre)[:, k]
            return np.log(np.maximum(values, 1e-300)) if log else values

        return quantity

    return {name: pick(k, name in law.positive) for k, name in enumerate(law.params)}


def condition_number(fitted: Fitted) -> float:
    """Return the condition number of the Jacobian of log loss with columns of unit length."""
    information = spread(fitted).information
    size = np.sqrt(np.maximum(np.diag(information), 1e-300))
    return float(np.sqrt(np.linalg.cond(information / np.outer(size, size))))


def _refusals(fitted: Fitted, profiles: Mapping[str, Profile], condition: float) -> list[str]:
    reasons = []
    values = fitted.values
    if condition > CONDITION_REFUSED or not np.isfinite(condition):
        reasons.append(f"the runs do not tell the parameters apart: condition number {condition:.1e}")
    for variable in ("N", "D", "C"):
        if variable in fitted.columns and (slope := _slope(fitted, variable)) >= 0:
            reasons.append(
                f"the loss does not fall with {variable} in these runs: its slope in logarithms is {slope:+.3g}"
            )
    if "E" in values and len(fitted.loss) < fitted.num_params + 2:
        reasons.append(
            f"E on too few runs: {len(fitted.loss)} runs for {fitted.num_params} parameters leave nothing that tests a "
            "floor. Add runs, or fit a law without a floor"
        )
    if "ln N*" in profiles:
        low, high = profiles["ln N*"].interval
        if not high - low < ALLOCATION_UNKNOWN:
            reasons.append(
                f"N* is not identified: its 95 % profile at the largest budget reaches from {_size(low)} "
                f"to {_size(high)}"
            )
    return reasons


def _floor_unknown(fitted: Fitted, profiles: Mapping[str, Profile]) -> dict[str, str]:
    """Return why the floor is not identified: its interval reaches zero or is about as wide as its value."""
    values = fitted.values
    if "E" not in profiles:
        return {}
    low, high = np.exp(np.minimum(profiles["E"].interval, 700.0))
    lowest = float(fitted.loss.min())
    near_zero = low < FLOOR_UNKNOWN * lowest and (high > 2 * low or values["E"] < FLOOR_ABSENT * lowest)
    if not near_zero and high - low <= FLOOR_REFUSED * values["E"]:
        return {}
    lower = "0" if low < FLOOR_UNKNOWN * lowest else f"{low:.3g}"
    upper = f"{high:.3g}" if np.isfinite(high) and high < lowest else f"the lowest loss, {lowest:.3g},"
    return {
        "E": f"E is not identified: every floor from {lower} to {upper} fits about as well (95 % profile); the "
        f"optimum's {values['E']:.3g} means nothing. Larger or more runs are needed, or a law without a floor"
    }


def _slope(fitted: Fitted, variable: str) -> float:
    """Return the mean derivative of log loss by the logarithm of a variable; the signs of exponents do not say it."""
    step = 1e-4
    further = {**fitted.columns, variable: fitted.columns[variable] * np.exp(step)}
    return float(np.mean(np.log(fitted.predict(further) / fitted.predict(fitted.columns)))) / step


def _weaknesses(fitted: Fitted, condition: float) -> list[str]:
    reasons = []
    rows, size = len(fitted.loss), fitted.num_params
    if fitted.share_of_starts < SHARE_WEAK:
        reasons.append(
            f"only {fitted.share_of_starts:.0%} of the starts meet in this optimum: there may be a better one"
        )
    if fitted.gradient_norm > 1e-5 * max(fitted.objective, 1e-9):
        reasons.append(f"the solver stopped at a gradient of {fitted.gradient_norm:.1e}")
    if rows < 2 * size:
        reasons.append(f"{rows} runs for {size} parameters: intervals are guesses")
    if CONDITION_WEAK < condition <= CONDITION_REFUSED:
        reasons.append(f"ill conditioned: {condition:.1e}")
    return reasons


def _vague(fitted: Fitted, profiles: Mapping[str, Profile]) -> dict[str, str]:
    """Return for each parameter that the runs hardly tell why."""
    found = {}
    for name in (n for n in fitted.law.params if n in profiles and n not in MULTIPLIERS):
        low, high = profiles[name].interval
        if name == "E":
            low, high = np.exp(np.minimum((low, high), 700.0))
            if high - low > FLOOR_VAGUE * fitted.values["E"]:
                found[name] = f"E is vague: 95 % from {low:.3g} to {high:.3g}"
        elif name in fitted.law.positive:
            if high - low > FLAT:
                found[name] = f"{name} is nearly flat: 95 % from {_size(low)} to {_size(high)}"
        elif name in EXPONENTS and low < 0 < high:
            found[name] = f"the sign of {name} is open: 95 % from {low:.3g} to {high:.3g}"
    return found


def _size(log_n: float) -> str:
    if not np.isfinite(log_n):
        return "0" if log_n < 0 else "infinity"
    return f"{np.exp(np.clip(log_n, -700, 700)):.2e}"
