"""What a table cannot tell, whatever the fit says: decided from where the runs lie, before their losses are read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from launch.scaling.objective import Array

SPREAD = 0.05  # standard deviation of a logarithm below which a quantity counts as held fixed
NAMES = {"N": "N (parameters)", "D": "D (tokens)", "C": "C (FLOPs)"}


def log_spread(values: Array) -> float:
    """Return the standard deviation of the logarithm."""
    return float(np.std(np.log(values)))


def distinct(values: Array) -> int:
    """Count values that differ by more than a tenth of a percent."""
    logs = np.sort(np.log(values))
    return 1 + int(np.sum(np.diff(logs) > 1e-3))


def allocation_obstacles(columns: Mapping[str, Array]) -> list[str]:
    """Return why no law of N and D, and so no allocation N*, D*, can be told from these runs.

    The reasons are structural: all losses could be exact and the answer would still be open.
    """
    N, D = columns["N"], columns["D"]
    if log_spread(N) < SPREAD:
        return [f"one width: every run has N = {np.median(N):.3g}, so nothing says how the loss falls with N"]
    if log_spread(D) < SPREAD:
        return [
            f"fixed D: every run has D = {np.median(D):.3g} tokens, so nothing says how the loss falls with D: "
            "only L(N) at this D can be fitted, no allocation N*, D*"
        ]
    slope, scatter = _line(np.log(N), np.log(D))
    if scatter < SPREAD and slope > 0:
        if abs(slope - 1) < 0.1:
            what = f"fixed D/N: every run has D/N = {np.median(D / N):.3g} within {scatter:.1%}"
        else:
            what = f"D is a power of N in every run (D ~ N^{slope:.2f} within {scatter:.1%})"
        return [
            f"{what}, so A/N^alpha and B/D^beta fall together and cannot be told apart: no allocation N*, D*. "
            "Add runs at another D/N (several horizons of one size, or IsoFLOP grids)"
        ]
    if distinct(N) < 3 or distinct(D) < 3:
        few = "N" if distinct(N) < 3 else "D"
        count = distinct(columns[few])
        return [f"only {count} different values of {NAMES[few]}: a floor, a coefficient and an exponent need three"]
    return []


def one_variable_obstacles(variable: str, columns: Mapping[str, Array], num_params: int) -> list[str]:
    """Return why no law of this one variable can be told from these runs."""
    values = columns[variable]
    if log_spread(values) < SPREAD:
        return [f"every run has {NAMES[variable]} = {np.median(values):.3g}: there is no ladder to fit"]
    if distinct(values) < num_params:
        return [f"{distinct(values)} different values of {NAMES[variable]} for {num_params} parameters"]
    return []


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Return the slope of y on x and the standard deviation about the line."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(np.std(y - slope * x - intercept))
