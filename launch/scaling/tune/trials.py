"""What the last rows of a ledger say of the trials of one setting at one size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from launch.scaling.tune.parabola import Trial


def trials_of(rows: Sequence[tuple[float, Mapping[str, Any]]]) -> list[tuple[Trial, Mapping[str, Any]]]:
    """Return each trial with its row. `rows`: the place of its value, in octaves, and the last row of its cell.

    Runs that failed are none: they tell nothing of their value.
    """
    return [(Trial(x, _log_loss(row)), row) for x, row in rows if row.get("status") != "failed"]


def _log_loss(row: Mapping[str, Any]) -> float:
    return math.log(row["loss"]) if row.get("status") == "done" and row["loss"] is not None else math.inf
