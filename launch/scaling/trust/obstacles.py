"""Why a law cannot be told from runs, before any loss is looked at."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from launch.scaling.arrays import Array, distinct_columns
from launch.scaling.laws.base import Demanding, Law
from launch.scaling.laws.identify import allocation_obstacles, one_variable_obstacles


def obstacles(law: Law, columns: Mapping[str, Array]) -> list[str]:
    """Return why this law cannot be told from runs at these places."""
    variables, num_params = law.variables, len(law.params)
    rows = len(columns[variables[0]])
    cells = distinct_columns(np.round(np.log(np.stack([columns[v] for v in variables])), 6)).shape[1]
    if cells < num_params:
        what = f"{rows} runs" if rows == cells else f"{rows} runs at {cells} different points"
        return [f"fewer runs than parameters: {what} for the {num_params} parameters of {law.formula}"]
    if isinstance(law, Demanding):
        return law.obstacles(columns)
    if {"N", "D"} <= set(variables):
        return allocation_obstacles(columns)
    if len(variables) == 1:
        return one_variable_obstacles(variables[0], columns, num_params)
    return []
