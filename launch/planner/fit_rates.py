"""Fit the planner's rates to steps that were measured on one card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from scipy.optimize import least_squares

from launch.planner.measured import MeasuredStep
from launch.planner.rates import RATES, Rates
from launch.planner.step_time import step_time
from trainer.plan.gpus import Gpu

WEIGHT = 0.02  # of a rate's distance from the published one, in logarithms, beside the error of one step
LEAST, MOST = 0.1, 10.0  # of a rate over the published one


def fitted_names(gpu: Gpu) -> tuple[str, ...]:
    """Return the rates that steps of one card tell of."""
    kind = "hopper" if gpu.power_limited else "ampere"
    return (kind, f"{kind}_attention", "memory", "step")


def fit_rates(steps: Sequence[MeasuredStep], gpu: Gpu) -> Rates:
    """Return the rates under which the logarithms of planned over measured seconds are least.

    Each stays near the published one where the steps say little of it.
    """
    names, start = fitted_names(gpu), asdict(RATES)

    def rates_at(x: np.ndarray) -> Rates:
        moved = {name: start[name] * float(np.exp(y)) for name, y in zip(names, x, strict=True)}
        return replace(RATES, **moved)

    def residuals(x: np.ndarray) -> list[float]:
        rates = rates_at(x)
        errors = [float(np.log(step_time(s.shape, s.way, gpu, s.parameters, rates).total / s.seconds)) for s in steps]
        return [*errors, *(WEIGHT * x)]

    zeros = np.zeros(len(names))
    bounds = (zeros + np.log(LEAST), zeros + np.log(MOST))
    return rates_at(least_squares(residuals, zeros, bounds=bounds, loss="soft_l1", f_scale=0.1).x)
