"""What tuning stands behind the rows of a ledger: which rates were tuned, and what those that were not cost.

The trials of a tuning give a parabola at each tuned size, and those a line of the best rate over sizes. So each row has
an estimate of how far its loss would fall at the best rate, and a law can be fitted to the losses that are left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.table.reading import TUNING, Row
from launch.scaling.table.table import Table
from launch.scaling.tune.parabola import Trial
from launch.scaling.tune.search import TOLERABLE, found

REACH = 10.0  # factor beyond the tuned sizes in which their line still says the best rate
SWEPT = 3  # rates at one size from which the best of them counts as tuned
FACTOR = "optim.lr_factor"
FALL = "fall"  # column: by how much log loss would fall at the best rate
STANDING = "tuning"  # label: how the rate of a row came about, where the ledger says it

Known = tuple[float, float, float]  # ln N of the body, log2 of the best rate, curvature per octave squared


@dataclass(frozen=True)
class Standing:
    """`weak`: why a law of these rows is weak; `notes`: what is good to know."""

    weak: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def tuning_of(counted: Sequence[Row], every: Sequence[Row]) -> tuple[list[str], Array | None]:
    """Return how the rate of each counted row came about, and by how much its log loss would fall at the best one.

    Falls (n,) are NaN where nothing tells, and None without any tuning in the ledger. Rows of old tell nothing: "".
    """
    known: dict[str, list[Known]] = {}
    for group in _by_size(every):
        kind, point = _tuned(group)
        if point is not None:
            known.setdefault(kind, []).append(point)
    rates: dict[tuple[Any, ...], set[float]] = {}
    for row in every:
        if row.get("purpose") != TUNING:
            rates.setdefault(_place(row), set()).add(round(math.log(row["lr"]), 6))
    words, falls = [], []
    for row in counted:
        fall = _fall(row, known.get(_kind(row), []))
        falls.append(fall)
        words.append(_word(row, fall, swept=len(rates[_place(row)]) >= SWEPT))
    return words, np.array(falls) if known else None


def standing(table: Table) -> Standing:
    """Say what tuning stands behind the rows of a table; nothing where the table does not tell."""
    words = table.labels.get(STANDING)
    if words is None:
        return Standing()
    weak = []
    for word, why in (("rule", "by the rule"), ("by hand", "set by hand"), ("recipe", "by a recipe, tuned elsewhere")):
        if (untuned := words == word).any():
            low, high = table.N[untuned].min(), table.N[untuned].max()
            runs = f"{untuned.sum()} of {len(table)} runs, N {low:.3g} to {high:.3g}"
            if word == "recipe":
                return Standing(notes=(f"learning rate {why} ({runs}): what mistuning costs is not in this ledger",))
            text = f"learning rate untuned at these sizes ({why}: {runs})"
            weak.append(f"{text}; 'escala sweep tune' tells what that costs")
    if FALL not in table.columns or not np.isfinite(table.columns[FALL]).any():
        return Standing(tuple(weak))
    fall = table.columns[FALL]
    most = int(np.nanargmax(fall))
    said = (
        f"losses would fall by {np.nanmean(fall):.2%} on average and {fall[most]:.2%} at most (N {table.N[most]:.3g})"
    )
    said += " at the best one, by the parabolas of the tuning"
    if fall[most] > TOLERABLE:
        return Standing((*weak, f"learning rate mistuned: {said}"))
    return Standing(tuple(weak), (f"learning rate tuned: {said}",))


def loss_if_tuned(table: Table) -> Array | None:
    """Return the losses (n,) that the runs would have at the best rates; None unless the rate of every row is tuned."""
    words, fall = table.labels.get(STANDING), table.columns.get(FALL)
    if words is None or fall is None or not (words == "tuned").all() or not np.nansum(fall) > 0:
        return None
    return np.asarray(table.loss * np.exp(-np.nan_to_num(fall)))


def _by_size(rows: Sequence[Row]) -> list[list[Row]]:
    """Group the rows of tunings of the rate by size, each cell with its last row on the first set."""
    last: dict[str, Row] = {}
    sets = [row["eval_set"] for row in rows if row.get("status", "done") == "done"]
    for row in rows:
        of_rate = row.get("purpose") == TUNING and row.get("knob", "") in ("", "lr")
        if of_rate and (row.get("status") != "done" or row["eval_set"] == sets[0]):
            last[row["cell"]] = row
    found: dict[str, list[Row]] = {}
    for row in last.values():
        size = {key: value for key, value in row["settings"].items() if key != FACTOR}
        key = json.dumps([size, row["params_body"], row["tokens_per_step"], _kind(row)], sort_keys=True)
        found.setdefault(key, []).append(row)
    return list(found.values())


def _tuned(rows: Sequence[Row]) -> tuple[str, Known | None]:
    trials = [Trial(math.log2(r["lr"]), _log_loss(r)) for r in rows if r.get("status") != "failed"]
    best = found(trials)
    if best is None or best.problem:
        return _kind(rows[0]), None
    return _kind(rows[0]), (math.log(rows[0]["params_body"]), best.x, best.curvature)


def _log_loss(row: Row) -> float:
    return math.log(row["loss"]) if row.get("status") == "done" and row["loss"] is not None else math.inf


def _fall(row: Row, known: Sequence[Known]) -> float:
    """Return by how much log loss would fall at the best rate; NaN too far from what was tuned."""
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
    return float(points[nearest, 2] * (math.log2(row["lr"]) - best) ** 2)


def _word(row: Row, fall: float, *, swept: bool) -> str:
    """Return how the rate came about: `tuned` where its cost is known, or the best of several was taken."""
    if math.isfinite(fall) or swept:
        return "tuned"
    return str(row.get("lr_by") or "")


def _kind(row: Mapping[str, Any]) -> str:
    return str(row.get("kind") or row["family"])


def _place(row: Row) -> tuple[Any, ...]:
    return _kind(row), row["params_body"], row["tokens"], row["tokens_per_step"]
