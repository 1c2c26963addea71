"""Why a law cannot be told from runs, before any loss is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Demanding, Law
from launch.scaling.laws.identify import cells_of, obstacles_of_cells, one_variable_obstacles


@dataclass(frozen=True)
class Places:
    """Where runs lie. What several laws ask of that is found once: sorting very many runs takes long."""

    columns: Mapping[str, Array]

    @cached_property
    def cells(self) -> Array:
        """The different ln N, ln D (2, n)."""
        return cells_of(self.columns, ("N", "D"))

    @cached_property
    def allocation(self) -> list[str]:
        """Why no law of N and D can be told."""
        return obstacles_of_cells(self.cells)

    def obstacles(self, law: Law) -> list[str]:
        """Return why this law cannot be told from runs at these places."""
        variables, num_params = law.variables, len(law.params)
        rows = len(self.columns[variables[0]])
        places = self.cells if set(variables) == {"N", "D"} else cells_of(self.columns, variables)
        cells = places.shape[1]
        if cells < num_params:
            what = f"{rows} runs" if rows == cells else f"{rows} runs at {cells} different points"
            return [f"fewer runs than parameters: {what} for the {num_params} parameters of {law.formula}"]
        if isinstance(law, Demanding):
            return law.obstacles(self.columns)
        if {"N", "D"} <= set(variables):
            return self.allocation
        if len(variables) == 1:
            return one_variable_obstacles(variables[0], self.columns, num_params)
        return []


def obstacles(law: Law, columns: Mapping[str, Array]) -> list[str]:
    """Return why this law cannot be told from runs at these places."""
    return Places(columns).obstacles(law)
