"""Groups of rows that belong together: a size, a budget, a trunk, a family. They are drawn or left out as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from launch.scaling.table.table import Table
from trainer.contract.errors import UserError


def clusters(table: Table, by: str) -> NDArray[np.str_]:
    """Return a name for each row: its N, D or C to two digits, or a label. Raises `UserError` for an unknown column."""
    if by in table.columns:
        return np.array([f"{value:.2g}" for value in table.columns[by]])
    if by not in table.labels:
        raise UserError(f"--cluster {by}: the table has {', '.join([*table.columns, *table.labels])}")
    return table.labels[by]


def in_order(groups: NDArray[np.str_]) -> list[str]:
    """Return the names of the groups: numbers by size, labels as they appear."""
    names = list(dict.fromkeys(groups.tolist()))
    try:
        return sorted(names, key=float)
    except ValueError:
        return names
