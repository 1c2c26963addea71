"""The law of one ladder: L(N) (or L(D), L(C)) with and without a floor, tested on the cells that it did not see."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted, fit_law
from launch.scaling.fit.objective import SQUARES
from launch.scaling.laws.identify import allocation_obstacles, log_spread, one_variable_obstacles
from launch.scaling.laws.powers import ONE_VARIABLE
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import parametric_bootstrap, residual_sd
from trainer.contract.errors import UserError

REPLICATES = 1000
ROUNDING = 1e-7  # of a loss: without noise an interval has no width
FLOOR_UNKNOWN = 0.02  # a floor whose interval reaches below this share of the lowest loss is not identified


@dataclass(frozen=True)
class Forecast:
    """What a law said about one cell that it was not fitted to. Losses in nats per token."""

    name: str
    value: float  # of the ladder's variable
    predicted: float
    interval: tuple[float, float] | None  # 95 %, for one new run; None when no degree of freedom is left
    measured: float

    @property
    def error(self) -> float:
        """Relative error of the predicted loss."""
        return self.predicted / self.measured - 1

    @property
    def inside(self) -> bool | None:
        if self.interval is None:
            return None
        low, high = self.interval
        return low * (1 - ROUNDING) <= self.measured <= high * (1 + ROUNDING)


@dataclass(frozen=True)
class LadderLaw:
    """One law fitted to the cells that were not held out."""

    fitted: Fitted
    intervals: dict[str, tuple[float, float]] | None
    forecasts: tuple[Forecast, ...]
    reasons: tuple[str, ...]  # what is not identified, empty when all is
    sd: float  # residual standard deviation of log loss
    noise: Array = field(repr=False, default_factory=lambda: np.empty(0))  # one for each replicate

    @property
    def name(self) -> str:
        """Return the law's name."""
        return self.fitted.law.name

    def band(self, variable: str, values: Array, level: float = 0.95) -> Array | None:
        """Return low and high losses (2, n) for one new run at each value, or None."""
        if self.fitted.draws is None:
            return None
        losses = self.fitted.predict_draws({variable: values})
        random = np.random.default_rng(0)
        noisy = losses * np.exp(self.noise[:, None] * random.standard_normal((len(self.noise), 1)))
        return np.asarray(np.quantile(noisy, [(1 - level) / 2, (1 + level) / 2], axis=0))


@dataclass(frozen=True)
class Ladder:
    """Both laws of one ladder, its cells, and what cannot be said."""

    table: Table
    variable: str
    held_out: Array  # mask over the table's rows
    laws: tuple[LadderLaw, ...]
    cannot: tuple[str, ...]

    @property
    def preferred(self) -> LadderLaw:
        """The law that forecast the held-out cells best; without any, the simpler one."""
        if not self.laws[0].forecasts:
            return self.laws[0]
        return min(self.laws, key=lambda law: np.mean([abs(f.error) for f in law.forecasts]))


def choose_variable(table: Table) -> str:
    """Return the variable of the ladder: N where sizes differ, else D, else C."""
    for name in ("N", "D", "C"):
        if name in table.columns and log_spread(table.columns[name]) >= 0.05:
            return name
    raise UserError(f"{table.source}: all runs have one size and one length: there is no ladder to fit")


def fit_ladder(
    table: Table,
    variable: str | None = None,
    *,
    hold_out: int = 1,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Ladder:
    """Fit the laws of one variable by least squares on log loss and forecast the largest cells.

    The `hold_out` largest values of the variable are left out of the fit. Intervals come from a parametric
    bootstrap whose variance is uncertain too (see `parametric_bootstrap`). Raises `UserError` when fewer than three
    different values would be left.
    """
    variable = variable or choose_variable(table)
    values = table.columns[variable]
    sizes = np.unique(values)
    hold_out = min(hold_out, max(0, len(sizes) - 3))
    held = np.isin(values, sizes[len(sizes) - hold_out :]) if hold_out else np.zeros(len(table), bool)
    obstacles = one_variable_obstacles(variable, table.columns, 2)
    if obstacles:
        raise UserError(f"{table.source}: {obstacles[0]}")
    laws = [
        _fit_one(table, held, variable, floor, replicates, seed)
        for floor in (False, True)
        if len(np.unique(values[~held])) >= 2 + floor
    ]
    cannot = list(allocation_obstacles(table.columns)) if table.has("N", "D") else []
    for law in laws:
        cannot += [f"{law.name}: {reason}" for reason in law.reasons]
    return Ladder(table, variable, held, tuple(laws), tuple(cannot))


def _fit_one(table: Table, held: Array, variable: str, floor: bool, replicates: int, seed: int) -> LadderLaw:
    law = ONE_VARIABLE[f"power-{variable}{'-floor' if floor else ''}"]
    seen = table.select(~held)
    fitted = fit_law(law, {variable: seen.columns[variable]}, seen.loss, SQUARES)
    sd = residual_sd(fitted, seen.columns.get("sem"))
    intervals, noise = None, np.empty(0)
    if np.isfinite(sd):
        fitted, noise = parametric_bootstrap(fitted, replicates, seed, sd)
        intervals = fitted.intervals()
    partial = LadderLaw(fitted, intervals, (), tuple(_reasons(fitted, intervals)), sd, noise)
    forecasts = _forecasts(partial, table, held, variable)
    return LadderLaw(fitted, intervals, forecasts, partial.reasons, sd, noise)


def _reasons(fitted: Fitted, intervals: dict[str, tuple[float, float]] | None) -> list[str]:
    values, names = fitted.values, fitted.law.params
    if intervals is None:
        return [f"{len(fitted.loss)} cells for {fitted.num_params} parameters leave no degree of freedom: no interval"]
    reasons = []
    if "E" in names and intervals["E"][0] < FLOOR_UNKNOWN * fitted.loss.min():
        low, high = intervals["E"]
        shown_low = "0" if low < 1e-3 else f"{low:.2f}"
        reasons.append(
            f"E is not identified at this scale: any floor from {shown_low} to {high:.2f} fits (95 %); "
            f"{values['E']:.2f} is where the optimum happens to lie"
        )
    exponent = names[-1]
    if intervals[exponent][0] <= 0:
        reasons.append(f"the sign of {exponent} is open (95 %: {intervals[exponent][0]:.3f} and above)")
    return reasons


def _forecasts(law: LadderLaw, table: Table, held: Array, variable: str) -> tuple[Forecast, ...]:
    found = []
    names = table.labels.get("name")
    for i in np.flatnonzero(held):
        value = table.columns[variable][i : i + 1]
        band = law.band(variable, value)
        found.append(
            Forecast(
                name=str(names[i]) if names is not None else f"row {table.row[i]}",
                value=float(value[0]),
                predicted=float(law.fitted.predict({variable: value})[0]),
                interval=None if band is None else (float(band[0, 0]), float(band[1, 0])),
                measured=float(table.loss[i]),
            )
        )
    return tuple(found)
