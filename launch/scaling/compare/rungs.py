"""The rungs of two ladders, side by side: what each side cost there, and its losses by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.compare.seeds import Scatter, Seed, scatter


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison, base or variant, at one rung.

    `losses`: nats per token, by seed. `seconds`: None where the ledger does not say.
    """

    parameters: float
    tokens: float
    flops: float
    seconds: float | None
    losses: Mapping[Seed, float]

    @property
    def loss(self) -> float:
        """The mean over seeds, nats."""
        return float(np.mean(list(self.losses.values())))


@dataclass(frozen=True)
class Rung:
    """Base and variant at one size and length."""

    base: Arm
    variant: Arm

    @property
    def common(self) -> list[Seed]:
        """The seeds with which both were trained."""
        return [seed for seed in self.base.losses if seed in self.variant.losses]


@dataclass(frozen=True)
class Samples:
    """What the statistics need of each rung, smallest first; arrays are (S,), losses are logarithms.

    `count` is the number of pairs that a rung is worth (of unpaired runs the harmonic mean): the variance of
    `difference` is that of one pair over it.
    """

    paired: bool
    x: Array  # log FLOPs, in the middle between base and variant
    beyond: Array  # log FLOPs of the variant over the base's
    difference: Array  # variant less base
    mean: Array  # of base and variant
    count: Array
    squares: float  # variance of the difference of one pair, times its freedom
    freedom: int
    mean_squares: float  # the same of the mean of a pair
    mean_freedom: int


def samples(rungs: Sequence[Rung]) -> Samples:
    """Return what the statistics need: by pairs of one seed where every rung has a pair, else by means."""
    paired = all(rung.common for rung in rungs)
    x = np.log([(rung.base.flops * rung.variant.flops) ** 0.5 for rung in rungs])
    beyond = np.log([rung.variant.flops / rung.base.flops for rung in rungs])
    base, variant = ([_logs(rung, side, paired) for rung in rungs] for side in ("base", "variant"))
    b, v = (np.array([np.mean(list(one.values())) for one in side]) for side in (base, variant))
    if paired:
        pairs = list(zip(base, variant, strict=True))
        of_difference = [scatter({seed: w[seed] - o[seed] for seed in o}) for o, w in pairs]
        of_mean = [scatter({seed: (w[seed] + o[seed]) / 2 for seed in o}) for o, w in pairs]
        count = np.array([float(one.count) for one in of_difference])
        squares, freedom = _pooled(of_difference)
        mean_squares, mean_freedom = _pooled(of_mean)
    else:
        ones, others = ([scatter(one) for one in side] for side in (base, variant))
        count = np.array([2 / (1 / o.count + 1 / w.count) for o, w in zip(ones, others, strict=True)])
        squares, freedom = _pooled([*ones, *others])
        squares *= 2  # a difference has the variance of two runs, and a mean that of half a run
        mean_squares, mean_freedom = squares / 4, freedom
    return Samples(paired, x, beyond, v - b, (v + b) / 2, count, squares, freedom, mean_squares, mean_freedom)


def _logs(rung: Rung, side: str, paired: bool) -> dict[Seed, float]:
    """Return log losses by seed; with `paired` those of seeds that both sides have."""
    losses = (rung.base if side == "base" else rung.variant).losses
    return {seed: float(np.log(losses[seed])) for seed in (rung.common if paired else losses)}


def _pooled(found: Sequence[Scatter]) -> tuple[float, int]:
    return sum(one.freedom * one.variance for one in found), sum(one.freedom for one in found)
