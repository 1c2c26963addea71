"""The runs of each rung of one ladder: those of one size and length, at the best of the settings tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import near_groups
from launch.scaling.compare.seeds import Seed
from launch.scaling.compare.sides import Runs
from launch.scaling.other.changes import SEEDS
from launch.scaling.other.equal_sizes import SAME_BODY, SAME_TOKENS
from launch.scaling.table.reading import Row


@dataclass(frozen=True)
class RungRuns:
    """The runs of one size and length, at the best of the settings tried."""

    rows: tuple[Row, ...]
    tried: int  # settings of learning rate and batch
    at_the_end: bool  # the best learning rate is the lowest or highest tried, of three or more

    @property
    def flops(self) -> float:
        """FLOPs of training of a run, the mean over the runs."""
        return float(np.mean([row["flops_exact"] for row in self.rows]))


def rungs_of(runs: Runs) -> list[RungRuns]:
    """Return the runs of each size and length, by compute, at the best of the settings tried."""
    bodies = near_groups(np.log([float(row["params_body"]) for row in runs.done]), SAME_BODY)
    tokens = near_groups(np.log([float(row["tokens"]) for row in runs.done]), SAME_TOKENS)
    found: dict[tuple[int, int], list[Row]] = {}
    for row, body, length in zip(runs.done, bodies.tolist(), tokens.tolist(), strict=True):
        found.setdefault((body, length), []).append(row)
    return sorted((_best(rows) for rows in found.values()), key=lambda rung: rung.flops)


def _best(rows: Sequence[Row]) -> RungRuns:
    """Return the runs of the setting with the lowest mean loss over its seeds."""
    tried: dict[tuple[float, int], list[Row]] = {}
    for row in rows:
        tried.setdefault((round(math.log(row["lr"]), 6), int(row["tokens_per_step"])), []).append(row)
    best = min(tried, key=lambda key: float(np.mean([row["loss"] for row in tried[key]])))
    rates = sorted({rate for rate, _ in tried})
    return RungRuns(tuple(tried[best]), len(tried), len(rates) > 2 and best[0] in (rates[0], rates[-1]))


def seed_of(row: Row, runs: Runs) -> Seed:
    """Return the seeds that a pair has to share, where they are not what is compared."""
    order = row.get("order_seed")
    order = (row.get("settings") or {}).get(SEEDS[1], row["seed"]) if order is None else order
    return "" if runs.same_init else str(row["seed"]), "" if runs.same_order else str(order)
