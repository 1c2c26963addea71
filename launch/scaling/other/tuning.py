"""The user's own law of the best learning rate or batch size, from sweeps of it at several sizes.

    h* = k N^p D^q

Where both settings vary at one N and D, their optimum is that of a bowl in (log lr, log B) with a cross term, and both
laws come from one fit. Where one alone varies, its law is that at the fixed other, which is said. Nothing about any
published rule is built in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.other.bowl import Trials, Windowed, fit_bowl
from launch.scaling.other.sweeps import Sweeps, at_the_edge, sweeps_of
from launch.scaling.other.tuning_cost import Cost, cost_of_following
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import check_replicates
from trainer.contract.errors import UserError

KNOBS = {"lr": "lr", "batch-size": "batch"}
WINDOWS = (0.16, 0.08, 0.04, 0.02, 0.01, 0.005)  # of log loss above a cell's floor
FEWEST_PER_PARAMETER = 3  # trials in the narrowest window that is tried
CONFIDENT = 0.95  # of the F test that a wider window bends the bowl
POWERS = {"N": "p", "D": "q", "batch": "r", "lr": "r"}


@dataclass(frozen=True)
class SettingLaw:
    """The law of one setting: values k, p, q (r: power of the fixed other setting) and 95 % intervals of the powers."""

    column: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    def to_json(self) -> dict[str, object]:
        """Return parameters and intervals for `--json`."""
        return {"params": self.values, "intervals": {n: list(pair) for n, pair in self.intervals.items()}}


@dataclass(frozen=True)
class TuningLaw:
    """The law that was asked for, and with a joint bowl that of the other setting.

    `windows` has the powers for each window of loss that could be fitted, widest first; `window` is the one taken.
    """

    knob: str
    law: SettingLaw
    other: SettingLaw | None
    fixed: str  # what is said of the other setting where it is no part of the bowl, else empty
    curvature: tuple[tuple[float, ...], ...]
    window: float
    windows: tuple[tuple[float, int, dict[str, float]], ...]
    cost: Cost
    num_cells: int
    num_rows: int
    reasons: tuple[str, ...]

    @property
    def values(self) -> dict[str, float]:
        """Return each parameter by its name."""
        return self.law.values

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the 95 % interval of each parameter."""
        return self.law.intervals

    @property
    def formula(self) -> str:
        """Return how it is written."""
        return formula(self.law)

    def to_json(self) -> dict[str, object]:
        """Return what `escala fit --law lr --json` prints."""
        found = {
            "law": self.knob,
            "formula": self.formula,
            **self.law.to_json(),
            "curvature": [list(row) for row in self.curvature],
            "fixed": self.fixed or None,
            "window": self.window,
            "windows": [{"window": w, "rows": rows, "powers": powers} for w, rows, powers in self.windows],
            "cost": self.cost.to_json(),
            "certificate": {"status": "weak" if self.reasons else "certified", "reasons": list(self.reasons)},
            "rows_used": self.num_rows,
            "cells": self.num_cells,
        }
        if self.other is not None:
            found["jointly"] = {"setting": self.other.column, "formula": formula(self.other), **self.other.to_json()}
        return found


def formula(law: SettingLaw) -> str:
    """Write lr* = k N^p D^q, with the powers that were fitted."""
    other = {"lr": "batch", "batch": "lr"}[law.column]
    powers = [f"{v}^{e}" for v, e in (("N", "p"), ("D", "q"), (other, "r")) if e in law.values]
    return f"{law.column}* = k " + " ".join(powers)


def fit_tuning(table: Table, knob: str, *, bootstrap: int = 200, seed: int = 0) -> TuningLaw:
    """Fit the law of `lr` or `batch-size`; intervals by drawing cells.

    Cells need at least three values of the setting. Raises `UserError` when no cell has them or when the loss has no
    minimum inside the sweeps.
    """
    column = KNOBS[knob]
    check_replicates(bootstrap, seed)
    table.require(("N", "D", column), knob)
    sweeps = sweeps_of(table.select(np.isfinite(table.columns[column])), column)
    fits = _every_window(sweeps.trials)
    if not fits:
        raise UserError(
            f"{knob}: trials within {WINDOWS[0]:.0%} of the best loss of their cell show no minimum in {column}: "
            "sweep it more widely, or in smaller steps"
        )
    chosen = _widest_that_fits(fits)
    taken, half = fits[chosen], _half_widths(fits, chosen, bootstrap, seed)
    laws = [_law(sweeps, taken, k, None if half is None else half[k]) for k in range(len(sweeps.settings))]
    powers = tuple((f.window, len(f.trials), _powers(sweeps, f.bowl.optimum[0])) for f in fits)
    cost = cost_of_following(sweeps.trials, taken)
    return TuningLaw(
        knob, laws[0], laws[1] if len(laws) > 1 else None, sweeps.fixed,
        tuple(tuple(float(v) for v in row) for row in taken.bowl.curvature),
        taken.window, powers, cost, len(taken.gram), len(taken.trials),
        (*at_the_edge(sweeps.trials), *_bent(fits, chosen, half), *_unknown(laws[0], bootstrap)),
    )  # fmt: skip


def _every_window(trials: Trials) -> list[Windowed]:
    """Fit every window that has trials enough, widest first, each from the one before."""
    found: list[Windowed] = []
    for window in WINDOWS:
        fit = fit_bowl(trials, window, found[-1].bowl if found else None)
        if fit is None:
            continue
        levels, num = len(fit.gram), fit.gram.shape[1]
        if found and (len(fit.trials) - levels < FEWEST_PER_PARAMETER * num or 2 * levels < len(found[0].gram)):
            break
        found.append(fit)
    return found


def _widest_that_fits(fits: list[Windowed]) -> int:
    """Return the widest window whose residuals are no larger than those of any narrower one, by F tests.

    A window that reaches to where losses are no parabola bends the powers, and a narrow one knows little of them.
    """
    from scipy.special import fdtri  # only this law pays for scipy

    for i in range(len(fits)):
        if all(
            fits[i].variance <= fits[j].variance * fdtri(fits[i].freedom, fits[j].freedom, CONFIDENT)
            for j in range(i + 1, len(fits))
        ):
            return i
    return len(fits) - 1


def _half_widths(fits: list[Windowed], taken: int, bootstrap: int, seed: int) -> Array | None:
    """Return the half widths (k, 1 + v) of 95 % intervals of O, or None where cells are too few.

    Cells are drawn, each with the change of O that leaving it out makes (a jackknife, which few cells do not flatter);
    Student's t has as many degrees of freedom as there are cells beyond the powers. The step to the next narrower
    window is added: what is left of a bend.
    """
    fit = fits[taken]
    cells, width = len(fit.gram), fit.bowl.optimum.shape[1]
    if cells - width < 1 or bootstrap < 1:
        return None
    from scipy.special import stdtrit

    change = fit.without_each() - fit.bowl.optimum
    drawn = np.random.default_rng(seed).standard_exponential((bootstrap, cells)) - 1  # of variance 1 (Rubin 1981)
    spread = np.einsum("rc,ckv->rkv", drawn, change).std(axis=0)
    bend = np.abs(fit.bowl.optimum - fits[min(taken + 1, len(fits) - 1)].bowl.optimum)
    return np.asarray(stdtrit(cells - width, 0.975) * spread + bend)


def _powers(sweeps: Sweeps, optimum: Array) -> dict[str, float]:
    return {POWERS[v]: float(e) for v, e in zip(sweeps.features, optimum[1:], strict=True)}


def _law(sweeps: Sweeps, fit: Windowed, k: int, half: Array | None) -> SettingLaw:
    """Turn row k of O back from centred logarithms."""
    optimum = fit.bowl.optimum[k]
    powers = _powers(sweeps, optimum)
    log_k = float(sweeps.z_mean[k] + optimum[0] - optimum[1:] @ sweeps.x_mean)
    ends = {} if half is None else {
        name: (value - float(h), value + float(h)) for (name, value), h in zip(powers.items(), half[1:], strict=True)
    }  # fmt: skip
    return SettingLaw(sweeps.settings[k], {"k": float(np.exp(log_k)), **powers}, ends)


def _bent(fits: list[Windowed], taken: int, half: Array | None) -> list[str]:
    """Say that powers have not settled: in the narrowest window they differ from the next one by more than they may."""
    if taken == 0 or taken < len(fits) - 1 or half is None:
        return []
    moved = np.abs(fits[taken].bowl.optimum - fits[taken - 1].bowl.optimum)[:, 1:]
    if (moved <= half[:, 1:]).all():
        return []
    return [f"the powers still move at {fits[-1].window:.1%} above the best loss: finer sweeps would tell more"]


def _unknown(law: SettingLaw, bootstrap: int) -> list[str]:
    if bootstrap and not law.intervals and len(law.values) > 1:
        return ["too few cells for an interval of the powers: sweep more sizes and lengths"]
    wide = [n for n, (low, high) in law.intervals.items() if high - low > 1]
    return [f"the power {n} is known to no better than {law.intervals[n][1] - law.values[n]:.2g}" for n in wide]
