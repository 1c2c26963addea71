"""Where the wall-clock time of a run went, over all its attempts: steps that count, and everything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from trainer.observe.costs import Costs
from trainer.observe.metrics import COSTS
from trainer.observe.observers import Row

WALL, TRAIN, LOST = "wall_seconds", "train_seconds", "lost_seconds"
PARTS = (TRAIN, "start_seconds", "wait_seconds", "save_seconds", "evaluation_seconds", LOST)


class WallTime:
    """The wall time of a run, on its first rank, and what it costs at the `costs` of this attempt.

    `rows` are the rows of training that earlier attempts left. `step` is where this one goes on: what was trained after
    it is lost, and costs all the same. `held` is how many seconds earlier attempts held the machine, where that is
    known: what their rows do not account for is wall time that cost, and nothing else.
    """

    def __init__(
        self,
        costs: Costs,
        rows: Sequence[Row],
        step: int,
        *,
        started: float,
        held: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._costs, self._clock, self._started = costs, clock, started
        timed = [row for row in rows if isinstance(row.get(WALL), int | float)]
        newest = timed[-1] if timed else {}
        kept = next((row for row in reversed(timed) if row["step"] <= step), {})
        self._before = {key: float(newest.get(key) or 0.0) for key in (WALL, *PARTS)}
        self._before |= {key: float(newest[key]) for key in COSTS if isinstance(newest.get(key), int | float)}
        lost = max(0.0, self._before[TRAIN] - float(kept.get(TRAIN) or 0.0))
        self._before[TRAIN] -= lost
        self._before[LOST] += lost
        self._unrecorded = max(0.0, held - self._before[WALL])  # after the last row of an attempt, or without any
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._stepped = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the block as `save_seconds` or another of the parts."""
        began = self._clock()
        if not self._stepped and name == TRAIN:
            self._stepped, self._parts["start_seconds"] = True, max(0.0, began - self._started)
        yield
        self._parts[name] += self._clock() - began

    def take_back(self, rows: Sequence[Row], step: int, waited: float) -> None:
        """Count the training after `step`, to which the run goes back, as lost. `rows` are those up to it."""
        timed = (row for row in reversed(rows) if isinstance(row.get(TRAIN), int | float) and row["step"] <= step)
        kept = next(timed, {})
        lost = max(0.0, self._before[TRAIN] + self._parts[TRAIN] - waited - float(kept.get(TRAIN) or 0.0))
        self._before[TRAIN] -= lost
        self._before[LOST] += lost

    def row(self, waited: float) -> dict[str, float]:
        """Return the totals until now. `waited` is how much of the steps of this attempt was a wait for data."""
        wall = max(0.0, self._clock() - self._started) + self._unrecorded
        now = {WALL: wall, **self._costs.after(wall), **self._parts, "wait_seconds": waited}
        now[TRAIN] = max(0.0, now[TRAIN] - waited)
        total = self._before | {key: round(self._before.get(key, 0.0) + value, 3) for key, value in now.items()}
        return {**total, "goodput": round(total[TRAIN] / total[WALL], 4) if total[WALL] else 0.0}
