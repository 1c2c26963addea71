"""Held-out sequences for a model that carries what it has read: the targets of any evaluation, and the text before.

The evaluated segments are cut into chains, one for each lane, in their order. A lane reads its chain and what lies
between, which counts nothing; where more than `WARM_UP` segments lie between, it begins anew so many before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np

from trainer.data.order.order import Ids
from trainer.data.read.batches import MicroBatch, evaluated_segments, to_micro_batch
from trainer.data.store.token_set import TokenSet

WARM_UP = 4  # segments that are read before the first evaluated one, where the text has them


def held_out_lanes(
    token_set: TokenSet,
    context_length: int,
    tokens: int,
    micro_batch: int,
    dp_rank: int = 0,
    dp_size: int = 1,
    *,
    lanes: int,
    documents: bool = False,
) -> Iterator[MicroBatch]:
    """Yield one data rank's share of the evaluation in chains: `micro_batch` lanes to their end, then the next ones.

    The targets are those of `held_out`, and what each sees depends on `lanes` alone, not on ranks and micro-batches.
    Over all ranks each target comes exactly once, and every rank gets the same number of batches of the same shape.
    """
    ids = evaluated_segments(token_set, context_length, tokens)
    pools = token_set.pool_samples(context_length)
    begins_of_pools = np.cumsum(pools) - pools
    chains = [reading_of(part, begins_of_pools) for part in np.array_split(ids, min(lanes, len(ids)))]
    for first in range(0, len(chains), micro_batch * dp_size):
        group = chains[first : first + micro_batch * dp_size]
        mine = group[dp_rank * micro_batch : (dp_rank + 1) * micro_batch]
        for step in range(max(len(segments) for segments, _, _ in group)):
            rows = [_at(reading, step) for reading in mine]
            rows += [(int(group[0][0][0]), 0.0, True)] * (micro_batch - len(rows))  # they only fill the batch up
            segments, weights, begins = zip(*rows, strict=True)
            arrays = token_set.segments(np.array(segments), context_length, np.array(begins), documents=documents)
            weighed = np.repeat(np.array(weights, np.float32)[:, None], context_length, axis=1)
            yield to_micro_batch(replace(arrays, weights=weighed))


Reading = tuple[Ids, list[float], list[bool]]  # segments, their weights, and whether the lane begins anew with each


def reading_of(evaluated: Ids, begins_of_pools: Ids) -> Reading:
    """Return what a lane reads to evaluate segments, which are given in their order."""
    pool = np.searchsorted(begins_of_pools, evaluated, side="right") - 1
    starts = np.maximum(evaluated - WARM_UP, begins_of_pools[pool])
    follows = [False, *(after >= start - 1 for (after, _), start in zip(pairwise(evaluated), starts[1:], strict=True))]
    same = [False, *(a == b for a, b in pairwise(pool))]
    goes_on = [f and s for f, s in zip(follows, same, strict=True)]
    firsts = [evaluated[n - 1] + 1 if on else starts[n] for n, on in enumerate(goes_on)]
    runs = [list(range(first, segment + 1)) for first, segment in zip(firsts, evaluated, strict=True)]
    weights = chain.from_iterable([0.0] * (len(run) - 1) + [1.0] for run in runs)
    begins = chain.from_iterable([not on, *[False] * (len(run) - 1)] for run, on in zip(runs, goes_on, strict=True))
    return np.array([*chain.from_iterable(runs)], dtype=np.int64), [*weights], [*begins]


def _at(reading: Reading, step: int) -> tuple[int, float, bool]:
    """Return segment, weight and beginning of a lane in a step; one that has ended reads its last segment anew."""
    segments, weights, begins = reading
    if step < len(segments):
        return int(segments[step]), weights[step], begins[step]
    return int(segments[-1]), 0.0, True
