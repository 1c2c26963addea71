"""A fit as its own file keeps it: internal parameters, some replicates, the spread of the residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from launch.scaling.arrays import Array

if TYPE_CHECKING:
    from launch.scaling.fit.fit import Fitted

STORED_DRAWS = 500
DIGITS = 10


def digits(values: Array) -> list[Any]:
    """Return an array (..., p) as lists of numbers of ten digits."""
    return [float(f"{v:.{DIGITS}g}") if np.ndim(v) == 0 else digits(v) for v in values]


def internal_json(fitted: Fitted | None) -> dict[str, Any] | None:
    """Return internal parameters, up to 500 bootstrap replicates and the residuals' spread."""
    if fitted is None:
        return None
    draws = np.empty((0, fitted.num_params)) if fitted.draws is None else fitted.draws
    every = max(1, len(draws) // STORED_DRAWS)
    return {
        "centre": dict(fitted.centre.means),
        "theta": [float(v) for v in fitted.theta],
        "draws": digits(draws[::every][:STORED_DRAWS]),
        "residual_sd": trimmed_sd(fitted.residuals, len(fitted.theta)),
    }


def trimmed_sd(residuals: Array, num_params: int) -> float:
    """Return a standard deviation that outliers do not spoil, widened for the parameters that were fitted."""
    rows = len(residuals)
    widened = (rows / max(1, rows - num_params)) ** 0.5
    clipped = np.clip(residuals, *np.quantile(residuals, [0.02, 0.98]))
    return float(np.sqrt(np.mean(clipped**2)) * widened)
