"""One-at-a-time changes of a run: what each does to the loss, over seeds, with the runs that diverged among them.

A table of changes is a ledger whose runs have one size and length and differ in settings of their sweep. Runs without
any setting but the seed are the base that the others are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.scaling.other.equal_sizes import SAME_BODY, seed_noise
from launch.scaling.table.reading import Row

SEEDS = ("seed", "data.seed")
BASE = "as it is"
DONE = "done"
FEWEST = 2  # changes that make a table of them
SECTION_SAYS_IT = ("kind", "name")


@dataclass(frozen=True)
class Change:
    """What a change did. `losses`, nats: of the runs that ended; `badly`: why the others did not, a text each."""

    name: str
    losses: tuple[float, ...]
    badly: tuple[str, ...]

    @property
    def runs(self) -> int:
        """Return how many runs had it, diverged ones too."""
        return len(self.losses) + len(self.badly)

    @property
    def loss(self) -> float:
        """The mean over seeds that ended; NaN where none did."""
        return float(np.mean(self.losses)) if self.losses else math.nan

    @property
    def spread(self) -> float:
        """The standard deviation of the loss over seeds; NaN for fewer than two that ended."""
        return float(np.std(self.losses, ddof=1)) if len(self.losses) > 1 else math.nan


@dataclass(frozen=True)
class Changes:
    """All changes in the order of the ledger, the base first. `noise`: of one run, pooled over changes; else NaN."""

    each: tuple[Change, ...]
    noise: float
    freedom: int
    eval_set: str

    @property
    def base(self) -> Change | None:
        """The runs without a change, None where there are none."""
        return self.each[0] if self.each[0].name == BASE else None

    def beyond_base(self, change: Change) -> tuple[float, float] | None:
        """Return how many nats a change is above the base, and the standard error of that by the pooled noise."""
        base = self.base
        if base is None or change is base or not base.losses or not change.losses:
            return None
        error = self.noise * math.sqrt(1 / len(base.losses) + 1 / len(change.losses))
        return change.loss - base.loss, error


def is_of_changes(rows: Sequence[Row]) -> bool:
    """Whether a ledger compares changes at one size and length, and not sizes, families or lengths."""
    if not all(isinstance(row.get("settings"), dict) and "params_body" in row for row in rows):
        return False
    if len({change_name(row) for row in rows}) < FEWEST:
        return False
    bodies = [float(row["params_body"]) for row in rows]
    lengths = {row["tokens"] for row in rows if row.get("status", DONE) == DONE}
    kinds = {row.get("kind") or row.get("family") for row in rows}
    return len(kinds) == 1 and len(lengths) <= 1 and max(bodies) <= min(bodies) * math.exp(SAME_BODY)


def changes_of(rows: Sequence[Row]) -> Changes:
    """Return what each change did, by the last row of each run on the first evaluation set. No run is left out."""
    sets = [row["eval_set"] for row in rows if row.get("status", DONE) == DONE]
    last: dict[str, Row] = {}
    for row in rows:
        if row.get("status", DONE) != DONE or row["eval_set"] == sets[0]:
            last[row["cell"]] = row
    found: dict[str, list[Row]] = {}
    for row in last.values():
        found.setdefault(change_name(row), []).append(row)
    names = sorted(found, key=lambda name: name != BASE)
    each = tuple(Change(name, *_ends(found[name])) for name in names)
    losses = [loss for change in each for loss in change.losses]
    setting = [k for k, change in enumerate(each) for _ in change.losses]
    noise, freedom = seed_noise(np.array(losses), np.array(setting, int)) if losses else (math.nan, 0)
    return Changes(each, noise, freedom, sets[0] if sets else "")


def _ends(rows: Sequence[Row]) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the losses of runs that ended, and how the others did not."""
    done = [row for row in rows if row.get("status", DONE) == DONE and row["loss"] is not None]
    badly = [row for row in rows if row not in done]
    return tuple(float(row["loss"]) for row in done), tuple(f"{_status(row)} at step {row['step']}" for row in badly)


def _status(row: Row) -> str:
    return str(row.get("status", DONE)) if row.get("status", DONE) != DONE else "diverged"


def change_name(row: Row, without: Collection[str] = SEEDS) -> str:
    """Name a run's change: its settings but for those `without`, as `norm_placement=post` and `schedule=linear`."""
    settings: Mapping[str, Any] = row.get("settings") or {}
    return ", ".join(f"{_short(key)}={_plain(value)}" for key, value in settings.items() if key not in without) or BASE


def _short(key: str) -> str:
    """Return the last part of a key, that before it where the last says nothing alone."""
    section, _, last = key.rpartition(".")
    return section.rpartition(".")[2] if section and last in SECTION_SAYS_IT else last


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
