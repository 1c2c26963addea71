"""False alarms of the live law among simulated ladders: each is drawn anew, with the run that the others foretell.

Unlike runs that are drawn along a given curve, these meet what a curve does not know of itself: its mean and its
covariance are estimated from eight runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.live.batches import shared_batches
from launch.scaling.live.make import expected_curve
from launch.scaling.live.runs import Finished
from launch.scaling.live.shapes import knots
from trainer.contract.leaving import Follower

BATCH, OWN = 0.024, 0.0054  # of the log loss: what a batch adds to all runs that read it, and to one of them


def deviations(ladders: Sequence[list[Finished]]) -> tuple[Array, Array]:
    """Return the law of the first ladder (2, K + 1) over log N, and a root of the covariance of all (K + 1, K + 1).

    The level of a seed is no deviation of a run, and neither is what the batches of its order add.
    """
    laws, rests = [], []
    for ladder in ladders:
        seeds = sorted({run.kind.seed for run in ladder})
        curves, design = [], []
        for seed in seeds:
            readers = [run for run in ladder if run.kind.seed == seed]
            shared = shared_batches(readers)
            assert shared is not None, "all widths of a seed read the same batches"
            curves += [[*shape.at_knots, run.final] for shape, run in zip(shared.shapes, readers, strict=True)]
            level = (seed == seeds[-1]) - 0.5
            design += [[*row, level] for row in _design([run.kind.N for run in readers])]
        law = np.linalg.lstsq(np.array(design), np.array(curves), rcond=None)[0]
        laws.append(law[:2])
        rests.append((np.array(curves) - np.array(design) @ law) * np.sqrt(len(ladder) / (len(ladder) - 3)))
    rest = np.concatenate(rests)
    values, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
    return laws[0], np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def _design(sizes: Sequence[float]) -> Array:
    logs = np.log(sizes)
    return np.stack([np.ones(len(logs)), logs - np.log(55e3)], axis=1)


def false_alarms(ladders: Sequence[list[Finished]], runs: int, scales: Sequence[float]) -> dict[str, int]:
    """Return how many of so many undisturbed runs leave their band, with batches that others read and without.

    Each ladder has the deviations of the real ones, times one of `scales`.
    """
    law, root = deviations(ladders)
    dice, found = np.random.default_rng(2), {"same seed": 0, "another seed": 0}
    like = [run.kind for run in ladders[0]]
    steps = np.arange(1.0, like[0].steps + 1)
    for _ in range(runs):
        scale = dice.choice(np.array(scales))
        batches = {seed: BATCH * dice.standard_normal(len(steps)) for seed in (*{kind.seed for kind in like}, -1)}
        drawn = []
        for kind in like:
            curve = (_design([kind.N]) @ law)[0] + scale * root @ dice.standard_normal(len(root))
            own = np.interp(steps / kind.steps, knots(), curve[:-1]) + OWN * dice.standard_normal(len(steps))
            drawn.append(Finished(kind, steps, own + batches[kind.seed], float(curve[-1])))
        one = drawn[dice.integers(len(drawn))]
        others = [run for run in drawn if run.kind.N != one.kind.N]
        for name, seed in (("same seed", one.kind.seed), ("another seed", -1)):
            follower = Follower(expected_curve(others, dataclasses.replace(one.kind, seed=seed)))
            losses = np.exp(one.log_loss - batches[one.kind.seed] + batches[seed])
            found[name] += any(
                follower.see(int(step), loss).test is not None for step, loss in zip(steps, losses, strict=True)
            )
    return found
