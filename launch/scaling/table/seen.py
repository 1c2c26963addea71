"""Which runs a fit has seen, by name and by N and D: a forecast of one of them tests nothing, in whichever file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from launch.scaling.table.table import Table

SAME = 0.02  # relative difference in N and D up to which a run is the same one


def runs_of(table: Table) -> dict[str, Any]:
    """Return the names of a table's runs, and the columns N and D, those that are there, of its different cells."""
    names = sorted(set(table.labels["name"].tolist()) - {""}) if "name" in table.labels else []
    columns = [c for c in ("N", "D") if c in table.columns]
    cells = np.unique(np.array([[float(f"{v:.4g}") for v in table.columns[c]] for c in columns]).T, axis=0)
    return {"names": names, **{c: cells[:, k].tolist() for k, c in enumerate(columns)}}


def was_seen(runs: Mapping[str, Sequence[Any]], name: str, sizes: Mapping[str, float | None]) -> bool:
    """Return whether a run of this name, or of these N and D, is among those of `runs_of`.

    Only sizes that are known on both sides are compared; without any, the name alone tells.
    """
    if name and name in runs.get("names", ()):
        return True
    known = [(np.array(runs[c], float), value) for c, value in sizes.items() if value is not None and runs.get(c)]
    near = [np.abs(column / value - 1) < SAME for column, value in known]
    return bool(near) and bool(np.logical_and.reduce(near).any())
