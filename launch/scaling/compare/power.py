"""What a ladder could see at all: the smallest multiplier that it would promote, by number of seeds.

Only the base is needed. The variant is taken to be as noisy, and a pair to share no noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.compare.rungs import Samples
from launch.scaling.compare.seeds import Seed, SeedNoise, scatter, seed_noise
from launch.scaling.compare.shift import LEVEL, UNEQUAL
from launch.scaling.compare.slope import fit_slope
from launch.scaling.trust.quantiles import student
from trainer.contract.errors import UserError

SEEDS = (1, 2, 3, 5, 8)
POWER = 0.8  # probability with which an effect that "can be seen" is promoted


@dataclass(frozen=True)
class Power:
    """`visible`: by number of seeds, the smallest multiplier that is promoted with a probability of 80 %."""

    noise: float  # standard deviation of the log loss of one run
    by: str  # where that comes from
    seeds: SeedNoise
    flops: tuple[float, ...]
    visible: Mapping[int, float]


def power(rungs: Sequence[Mapping[Seed, float]], flops: Sequence[float], asymptote: float | None = None) -> Power:
    """Return what a ladder would see, given its losses by seed at each rung. Raises UserError.

    The noise is that over seeds; without any, the scatter of the rungs about their curve, where that is left.
    """
    logs = [{seed: float(np.log(loss)) for seed, loss in rung.items()} for rung in rungs]
    each, noise = [scatter(one) for one in logs], seed_noise(logs)
    count, none = np.array([float(one.count) for one in each]), np.zeros(len(rungs))
    mean = np.array([np.mean(list(one.values())) for one in logs])
    squares = noise.freedom * noise.both**2 if noise.freedom else 0.0
    of_base = Samples(True, np.log(flops), none, none, mean, count, 0.0, 0, squares, noise.freedom)
    slope = fit_slope(of_base, asymptote)
    sd, by = noise.both, f"over seeds, {noise.freedom} degrees of freedom"
    if not noise.freedom:
        if not slope.freedom:
            raise UserError(
                f"{len(rungs)} rungs of one seed do not tell the noise: train seeds (seeds: 2 in the sweep file), add "
                "a rung, or pin the asymptote (--asymptote)"
            )
        sd, by = slope.noise, f"about the curve of the ladder, {slope.freedom} degrees of freedom: no rung has seeds"
    information = float((slope.values**2).sum())
    errors = {seeds: sd * (2 / seeds / information) ** 0.5 for seeds in SEEDS}
    freedoms = {seeds: len(rungs) - 1 + len(rungs) * (seeds - 1) for seeds in SEEDS}
    visible = {seeds: float(np.exp(errors[seeds] * noncentrality(freedoms[seeds]))) for seeds in SEEDS}
    return Power(sd, by, noise, tuple(flops), visible)


def noncentrality(freedom: float) -> float:
    """Return how many standard errors an effect must be to be promoted in 80 of 100 comparisons.

    The interval has to lie above 0 a little more often: one comparison in twenty seems to differ between rungs by more
    than seeds explain, and is held to a wider one.
    """
    from scipy.special import nctdtrinc  # late, as in quantiles.py

    return float(nctdtrinc(freedom, 1 - POWER / (1 - UNEQUAL), student(freedom, LEVEL)))
