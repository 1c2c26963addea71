"""Chosen stretches of a split as best-fit packing lays them out: to evaluate what was trained, on the same targets.

Sequences that are cut from the stream begin in mid-document, which a run with packed documents has hardly seen. So its
held-out targets are those of the stretches that any other run is evaluated on, while each of them sees what training
would have shown it: the documents (or pieces of long ones) that hold these targets are packed whole, and tokens that
were not chosen have weight 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.data.order.order import Ids
from trainer.data.read.packing import Packing, best_fit, lay_out
from trainer.data.store.token_set import Arrays, TokenSet


class PackedTargets:
    """The targets of some samples of a token set, in packed sequences of `context_length` places."""

    def __init__(self, token_set: TokenSet, sample_ids: Ids, context_length: int) -> None:
        self.token_set, self.context_length = token_set, context_length
        self.begins = np.sort(token_set.begins(sample_ids, context_length)) + 1  # the first target of each sample
        firsts, lengths, starts = self._pieces()
        order = np.argsort(-lengths, kind="stable")
        sequence = np.array(best_fit(lengths[order].tolist(), context_length), dtype=np.int64)
        order, sequence = order[np.argsort(sequence, kind="stable")], np.sort(sequence)
        counts = np.bincount(sequence)
        self.packing = Packing(
            firsts[order],
            lengths[order].astype(np.int32),
            starts[order],
            np.concatenate([[0], np.cumsum(counts)]),
            np.array([len(counts)]),
        )

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.packing.firsts) - 1

    def arrays(self, sequences: Ids) -> Arrays:
        """Return some of the sequences; every chosen target has weight 1 in exactly one of them."""
        return lay_out(self.token_set, self.packing, sequences, self.context_length, self._chosen)

    def _chosen(self, positions: Ids) -> npt.NDArray[np.float32]:
        """Return 1 for each position of the stream that is a chosen target, else 0."""
        before = np.searchsorted(self.begins, positions, side="right") - 1
        inside = (before >= 0) & (positions < self.begins[before] + self.context_length)
        return inside.astype(np.float32)

    def _pieces(self) -> tuple[Ids, Ids, npt.NDArray[np.bool_]]:
        """Return (first target, pairs, whether it begins its document) of each piece that holds a chosen target."""
        T, found = self.context_length, []
        for first_token, ends in self.token_set.pool_documents():
            begins = np.concatenate([[0], ends[:-1]])
            counts = -(-(ends - begins) // T)
            offset = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * T
            first = first_token + np.repeat(begins, counts) + offset
            length = np.minimum(T, first_token + np.repeat(ends, counts) - first)
            # The last stretch that begins before the piece ends is the only one that can reach into it from the left.
            last = np.searchsorted(self.begins, first + length, side="left") - 1
            holds = (last >= 0) & (self.begins[last] + T > first)
            found.append((first[holds], length[holds], offset[holds] == 0))
        firsts, lengths, starts = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return firsts, lengths, starts
