"""What one batch adds to the loss of every run that reads it.

Runs of one seed and batch size read the same batches in the same order, whatever their size and length. A batch that is
hard for one is hard for all: of the noise of a run's curve most is known from the finished runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from launch.scaling.live.runs import Finished
from launch.scaling.live.shapes import Shape, shape_of

FEWEST, ROUNDS = 2, 8


@dataclass(frozen=True)
class Batches:
    """How much log loss each step's batch adds, and the runs' shapes with only what that leaves."""

    added: dict[int, float]
    shapes: list[Shape]


def shared_batches(runs: Sequence[Finished]) -> Batches | None:
    """Return what the batches add, from runs of one order of data; None where no two of them share any.

    A batch is judged by the mean of what it leaves of the runs that read it, times how far the mean of the others
    foretells that of one run. Shapes and batches are fitted in turn (backfitting): a shape takes up a part of a batch
    at first, and runs of other lengths take up other parts.
    """
    steps = [np.where(run.steps <= run.until, run.steps, 0).astype(int) for run in runs]  # 0: not of the order
    last = max(int(one.max()) for one in steps)
    counts = np.sum([np.bincount(one, minlength=last + 1) for one in steps], axis=0)
    shared = np.asarray(counts >= FEWEST)
    shared[0] = False
    if not shared.any():
        return None
    added, slope = np.zeros(last + 1), 0.0
    for _ in range(ROUNDS):
        shapes = [shape_of(run, added[one]) for run, one in zip(runs, steps, strict=True)]
        lefts = [np.bincount(one, s.left, minlength=last + 1) for one, s in zip(steps, shapes, strict=True)]
        sums = np.sum(lefts, axis=0)
        others = [
            np.where(shared[one], (sums[one] - shape.left) / np.maximum(counts[one] - 1, 1), 0.0)
            for one, shape in zip(steps, shapes, strict=True)
        ]
        every, mine = np.concatenate(others), np.concatenate([shape.left for shape in shapes])
        slope = float(np.clip((every @ mine) / max(every @ every, 1e-300), 0, 1))
        added = np.where(shared, slope * sums / np.maximum(counts, 1), 0.0)
    rest = [replace(shape, left=shape.left - slope * mean) for shape, mean in zip(shapes, others, strict=True)]
    return Batches({int(step): float(added[step]) for step in np.flatnonzero(shared)}, rest)
