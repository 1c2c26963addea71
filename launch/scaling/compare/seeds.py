"""The noise of seeds: of initial values, of the data order, and of both, as far as the design tells them apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Seed = tuple[str, str]  # of the initial values and dropout, and of the data order


@dataclass(frozen=True)
class Scatter:
    """How values of one rung scatter over seeds.

    `count`: how many independent values their mean is worth. `variance`: of one value, initial values and order drawn
    anew, known to `freedom` degrees.
    """

    count: int
    variance: float
    freedom: int


@dataclass(frozen=True)
class SeedNoise:
    """Standard deviations of log loss over seeds, pooled over rungs; NaN where the design does not tell.

    `both`: of runs that differ in initial values and order. `init`: under one order. `order`: from the same initial
    values.
    """

    both: float
    freedom: int  # of `both`
    init: float = math.nan
    order: float = math.nan


def scatter(values: Mapping[Seed, float]) -> Scatter:
    """Return the scatter of values by seed.

    Seeds that were crossed share initial values or orders, so that their mean is worth no more values than the
    fewer of the two, and half the mean square of differences counts pairs alone that share neither. Where all values
    share one of the two, that one is not part of the noise.
    """
    inits, orders = ({seed[k] for seed in values} for k in (0, 1))
    varied = [number for number in (len(inits), len(orders)) if number > 1]
    if not varied:
        return Scatter(1, 0.0, 0)
    freedom = min(len(values) - 1, sum(number - 1 for number in varied))
    pairs = list(itertools.combinations(values, 2))
    apart = [pair for pair in pairs if sum(a != b for a, b in zip(*pair, strict=True)) == len(varied)]
    squares = [(values[a] - values[b]) ** 2 / 2 for a, b in apart]
    if not squares:
        return Scatter(1, 0.0, 0)
    return Scatter(min(varied), sum(squares) / len(squares), freedom)


def seed_noise(rungs: Sequence[Mapping[Seed, float]]) -> SeedNoise:
    """Return the noise of log losses by seed at each rung."""
    whole = [scatter(rung) for rung in rungs]
    freedom = sum(one.freedom for one in whole)
    both = math.sqrt(sum(one.freedom * one.variance for one in whole) / freedom) if freedom else math.nan
    init, order = (_where_only(rungs, k) for k in (0, 1))
    return SeedNoise(both, freedom, init, order)


def _where_only(rungs: Sequence[Mapping[Seed, float]], varied: int) -> float:
    """Return the standard deviation over pairs that differ in one of the two alone; NaN without such pairs."""
    squares = [
        (rung[a] - rung[b]) ** 2 / 2
        for rung in rungs
        for a, b in itertools.combinations(rung, 2)
        if a[varied] != b[varied] and a[1 - varied] == b[1 - varied]
    ]
    return math.sqrt(sum(squares) / len(squares)) if squares else math.nan
