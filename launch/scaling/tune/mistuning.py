"""How far the loss of each row would fall at the best value of a knob, by the parabolas of the tuning in its ledger.

The trials of a tuning give a parabola at each tuned size, and those a line of the best value over sizes. So each row
of a size near them has an estimate of what its own value costs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np

from launch.scaling.table.reading import TUNING, Row
from launch.scaling.tune.knobs import BRACKETS, COLUMNS, FACTOR, RATE_POWERS, SETTINGS, Knob
from launch.scaling.tune.search import found
from launch.scaling.tune.trials import trials_of

REACH = 10.0  # factor beyond the tuned sizes in which their line still says the best value

Known = tuple[float, float, float]  # ln N of the body, log2 of the best value, curvature per octave squared


class Mistuning:
    """What a ledger's tuning says of one knob. `every`: all rows of the ledger."""

    def __init__(self, knob: Knob, every: Sequence[Row]) -> None:
        self.knob = knob
        self._power = _rate_power(every) if knob == "lr" else 0.0
        self._known: dict[str, list[Known]] = {}
        for group in _by_size(knob, every):
            if (point := self._tuned(group)) is not None:
                self._known.setdefault(kind_of(group[0]), []).append(point)

    def __bool__(self) -> bool:
        return bool(self._known)

    def value(self, row: Row) -> float:
        """Return the row's log2 of the knob; NaN where it does not say. A learning rate is that at a batch of 1."""
        value = row.get(COLUMNS[self.knob])
        if not isinstance(value, int | float) or value <= 0:
            return math.nan
        return math.log2(value) - self._power * math.log2(row["tokens_per_step"])

    def fall(self, row: Row) -> float:
        """Return by how much log loss would fall at the best value; NaN too far from what was tuned."""
        known = self._known.get(kind_of(row), [])
        if not known:
            return math.nan
        points = np.array(sorted(known))
        at = math.log(row["params_body"])
        nearest = int(np.argmin(np.abs(points[:, 0] - at)))
        if not points[0, 0] - math.log(REACH) <= at <= points[-1, 0] + math.log(REACH):
            return math.nan
        best = points[nearest, 1]
        if abs(points[nearest, 0] - at) > 0.05 and np.ptp(points[:, 0]) > 0.1:
            slope, level = np.polyfit(points[:, 0], points[:, 1], 1)
            best = level + slope * at
        return float(points[nearest, 2] * (self.value(row) - best) ** 2)

    def _tuned(self, rows: Sequence[Row]) -> Known | None:
        trials = trials_of([(self.value(row), row) for row in rows])
        best = found([trial for trial, _ in trials], BRACKETS[self.knob])
        if best is None or best.problem:
            return None
        return math.log(rows[0]["params_body"]), best.x, best.curvature


def kind_of(row: Row) -> str:
    """Return what a row's curve is called."""
    return str(row.get("kind") or row["family"])


def _rate_power(every: Sequence[Row]) -> float:
    """Return the power of the batch with which learning rates went, as the trials of batches did."""
    for group in _by_size("batch", every):
        batches, rates = (np.log([row[name] for row in group]) for name in ("tokens_per_step", "lr"))
        if np.ptp(batches) > 0:
            return float(np.polyfit(batches, rates, 1)[0])
    return RATE_POWERS["adamw"]  # no trial of a batch says it


def _by_size(knob: Knob, rows: Sequence[Row]) -> list[list[Row]]:
    """Group the rows of tunings of a knob by size, each cell with its last row on the first set."""
    last: dict[str, Row] = {}
    sets = [row["eval_set"] for row in rows if row.get("status", "done") == "done"]
    for row in rows:
        of_knob = row.get("purpose") == TUNING and (row.get("knob") or "lr") == knob
        if of_knob and (row.get("status") != "done" or row["eval_set"] == sets[0]):
            last[row["cell"]] = row
    found_groups: dict[str, list[Row]] = {}
    for row in last.values():
        found_groups.setdefault(_size(knob, row), []).append(row)
    return list(found_groups.values())


def _size(knob: Knob, row: Row) -> str:
    """Return what the trials of one size have in common: with another batch the rate differs too."""
    turned = {SETTINGS[knob], *([FACTOR] if knob == "batch" else [])}
    size = {key: value for key, value in row["settings"].items() if key not in turned}
    batch = None if knob == "batch" else row["tokens_per_step"]
    return json.dumps([size, row["params_body"], batch, kind_of(row)], sort_keys=True)
