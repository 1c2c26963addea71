"""The entropy of a set's tokens by their frequencies alone: what a model reaches that has learned nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.data.store.manifest import Shard

COUNTED = 1 << 26  # tokens at most; the estimate is then low by about vocabulary / (2 COUNTED) nats
STRETCH = 1 << 20  # tokens that are counted at a time


def unigram_entropy(root: Path, shards: Sequence[Shard], dtype: str, vocab_size: int) -> float:
    """Return the entropy of the distribution of tokens, in nats per token.

    Of larger sets the first tokens of each shard are counted, in proportion. `shards` hold at least one token.
    """
    share = min(1.0, COUNTED / sum(shard.tokens for shard in shards))
    counts = np.zeros(vocab_size, dtype=np.int64)
    for shard in shards:
        tokens = np.memmap(root / f"{shard.file}.bin", dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
        counted = tokens[: max(1, int(share * len(tokens)))]
        for begin in range(0, len(counted), STRETCH):
            counts += np.bincount(counted[begin : begin + STRETCH], minlength=vocab_size)
    frequencies = counts[counts > 0] / counts.sum()
    return float(-np.sum(frequencies * np.log(frequencies)))
