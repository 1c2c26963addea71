"""Mixtures: which source each sample of the run comes from, exactly in proportion in every block, with no state.

The order is cut into blocks of 1024 samples. In each block, source i has exactly w_i of the places (its weight, rounded
so that they sum to 1024), at places that a pseudo-random permutation of the block picks. So sample g of the run is
number block * w_i + (places of i before it in its block) of its source, whatever was read before, and each source is
read in its own shuffled order. A stage is a stretch of the run with weights of its own; each source goes on where the
last stage left it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.contract.errors import UserError
from trainer.data.order.order import Ids, permute, stream_keys

BLOCK = 1024
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Stage:
    """From sample `begin` of the run on, sources have these weights (any scale, 0 for a source that is not read)."""

    begin: int
    weights: tuple[float, ...]


class Mixture:
    """The order of a run over several sources.

    `within(source, indices)` is the order inside a source: position in its endless stream -> sample of the source.
    Samples of all sources are numbered through, in the order of `pool_samples`.
    """

    def __init__(
        self,
        pool_samples: Sequence[int],
        stages: Sequence[Stage],
        seed: int,
        within: Callable[[int, Ids], Ids],
        names: Sequence[str] = (),
    ) -> None:
        assert stages and stages[0].begin == 0, "a mixture begins with a stage at 0"
        self.names = list(names) or [f"source {number + 1}" for number in range(len(pool_samples))]
        self.pool_samples = np.array(pool_samples, dtype=np.int64)
        self.firsts = np.cumsum([0, *pool_samples[:-1]])
        self.stages, self.seed, self.within = list(stages), seed, within
        self.places = [block_places(stage.weights, self.names) for stage in stages]
        for stage in stages:
            for number, weight in enumerate(stage.weights):
                if weight > 0 and pool_samples[number] < 1:
                    raise UserError(f"{self.names[number]} of the mixture is shorter than one sequence; leave it out")
        self._blocks: dict[tuple[int, int], tuple[Ids, Ids]] = {}
        self._begun = [np.zeros(len(pool_samples), dtype=np.int64)]  # samples of each source before each stage
        for number, (this, after) in enumerate(pairwise(stages)):
            self._begun.append(self._begun[number] + self._counts(number, after.begin - this.begin))

    def __call__(self, indices: Ids) -> Ids:
        """Return the samples at positions of the run."""
        source, position = self.assign(indices)
        ids = np.empty_like(indices)
        for number in np.unique(source):
            mine = source == number
            ids[mine] = self.firsts[number] + self.within(int(number), position[mine])
        return ids

    def assign(self, indices: Ids) -> tuple[Ids, Ids]:
        """Return the source of each position of the run, and how many samples of that source came before it."""
        begins = np.array([stage.begin for stage in self.stages], dtype=np.int64)
        stage_of = np.searchsorted(begins, indices, side="right") - 1
        block_of, place = np.divmod(indices - begins[stage_of], BLOCK)
        source, position = np.empty_like(indices), np.empty_like(indices)
        for stage, block in {(int(s), int(b)) for s, b in zip(stage_of, block_of, strict=True)}:
            mine = (stage_of == stage) & (block_of == block)
            sources, ranks = self._block(stage, block)
            source[mine] = sources[place[mine]]
            position[mine] = (
                self._begun[stage][source[mine]] + block * self.places[stage][source[mine]] + ranks[place[mine]]
            )
        return source, position

    def _block(self, stage: int, block: int) -> tuple[Ids, Ids]:
        """Return the source of each place of a block, and its rank among the places of that source."""
        found = self._blocks.get((stage, block))
        if found is None:
            if len(self._blocks) >= 64:
                self._blocks.clear()
            drawn = permute(np.arange(BLOCK, dtype=np.int64), BLOCK, stream_keys(self.seed, stage + 1, block))
            source = np.searchsorted(np.cumsum(self.places[stage]), drawn, side="right")
            ranks = np.empty_like(source)
            for number in range(len(self.places[stage])):
                mine = source == number
                ranks[mine] = np.arange(mine.sum())
            found = self._blocks[stage, block] = (source, ranks)
        return found

    def counts(self, samples: int) -> Counts:
        """Return how many of the first `samples` samples of the run come from each source."""
        number = max(k for k, stage in enumerate(self.stages) if stage.begin <= samples)
        return self._begun[number] + self._counts(number, samples - self.stages[number].begin)

    def shares(self) -> list[list[Any]]:
        """Return [first sample, places in a block by source] of each stage: with the seed, all that the order is."""
        return [
            [stage.begin, {name: int(n) for name, n in zip(self.names, places, strict=True) if n}]
            for stage, places in zip(self.stages, self.places, strict=True)
        ]

    def _counts(self, number: int, length: int) -> Counts:
        """Count the samples of each source in the first `length` of a stage that ends there."""
        blocks, rest = divmod(length, BLOCK)
        source, _ = self._block(number, blocks)
        return blocks * self.places[number] + np.bincount(source[:rest], minlength=len(self.places[number]))


@lru_cache
def _rounded(weights: tuple[float, ...]) -> tuple[int, ...]:
    shares = np.array(weights, dtype=np.float64) / sum(weights) * BLOCK
    places = np.floor(shares).astype(np.int64)
    for number in np.argsort(-(shares - places), kind="stable")[: BLOCK - int(places.sum())]:
        places[number] += 1
    return tuple(int(n) for n in places)


def block_places(weights: tuple[float, ...], names: Sequence[str]) -> Counts:
    """Return the places of each source in a block: weights by the method of largest remainders, summing to BLOCK.

    Raises UserError where a weight is too small for a single place.
    """
    places = _rounded(weights)
    for number, (weight, count) in enumerate(zip(weights, places, strict=True)):
        if weight > 0 and count == 0:
            share = weight / sum(weights)
            raise UserError(
                f"{names[number]} of the mixture has a share of {share:.2e}; the smallest is 1/{BLOCK}. "
                f"Raise its weight or leave it out"
            )
    return np.array(places, dtype=np.int64)
