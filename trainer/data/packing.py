"""Best-fit packing: whole documents in sequences, so that few are cut and no target crosses from one to the next.

A document of n tokens has n - 1 pairs of an input and its target. Documents with more pairs than a sequence has places
are cut into full sequences and a rest; rests and short documents go, longest first, each into the sequence with the
least room that still fits (best-fit decreasing; Ding et al. 2024, arXiv 2404.10830). Neighbouring documents are packed
in groups, so that a sample's documents lie near each other on disk. Places that stay empty have weight 0.
"""

from __future__ import annotations

import bisect
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.data.order import Ids
from trainer.data.token_set import Arrays, TokenSet

GROUP = 65_536  # documents that are packed together
Pieces = tuple[Ids, Ids, Ids, Ids]


def pack(pairs: npt.NDArray[np.int64], capacity: int) -> Pieces:
    """Pack documents with so many pairs into sequences of `capacity` places.

    Returns the pieces in the order of their sequences, as (sequence, document, offset in the document, length): every
    pair of every document is in exactly one piece, and no sequence holds more than `capacity`.
    """
    full = pairs // capacity
    document = np.repeat(np.arange(len(pairs)), full)
    number = np.arange(len(document)) - np.repeat(np.cumsum(full) - full, full)
    rests = np.flatnonzero(pairs % capacity)
    rests = rests[np.argsort(-(pairs[rests] % capacity), kind="stable")]
    placed = _best_fit((pairs[rests] % capacity).tolist(), capacity)
    sequence = np.concatenate([np.arange(len(document)), np.array(placed, dtype=np.int64) + len(document)])
    documents = np.concatenate([document, rests])
    offsets = np.concatenate([number, full[rests]]) * capacity
    sizes = np.concatenate([np.full(len(document), capacity), pairs[rests] % capacity])
    order = np.lexsort((documents, sequence))
    return sequence[order], documents[order], offsets[order], sizes[order]


def _best_fit(sizes: list[int], capacity: int) -> list[int]:
    """Return the sequence of each size; sizes are given longest first."""
    by_room: dict[int, list[int]] = {}  # room -> sequences with exactly so much
    rooms: list[int] = []  # the rooms in use, sorted
    placed: list[int] = []
    sequences = 0
    for size in sizes:
        at = bisect.bisect_left(rooms, size)
        if at == len(rooms):
            which, room = sequences, capacity
            sequences += 1
        else:
            room = rooms[at]
            which = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[at]
        placed.append(which)
        if left := room - size:
            if left not in by_room:
                by_room[left] = []
                bisect.insort(rooms, left)
            by_room[left].append(which)
    return placed


class PackedSet:
    """A split whose samples are packed sequences of one length. Read like a TokenSet.

    The packing is computed once and kept in `directory`; where that cannot be written, in memory.
    """

    def __init__(self, token_set: TokenSet, context_length: int, directory: Path | None = None) -> None:
        self.token_set, self.context_length = token_set, context_length
        self.manifest, self.split, self.sources = token_set.manifest, token_set.split, token_set.sources
        stem = f"{self.manifest.data_hash}-{self.split.replace(':', '-')}-{context_length}"
        self._begins, self._lengths, self._firsts, self._pools = _kept(directory, stem, self._pack_all)

    def pool_samples(self, context_length: int) -> npt.NDArray[np.int64]:
        """Return the number of sequences of each source."""
        assert context_length == self.context_length
        return self._pools

    def num_samples(self, context_length: int) -> int:
        """Return the number of sequences."""
        return int(self.pool_samples(context_length).sum())

    def arrays(self, sample_ids: Ids, context_length: int, *, documents: bool = True) -> Arrays:
        """Return packed sequences. Documents always come with them: without a mask, packing makes little sense."""
        assert context_length == self.context_length
        shape = (len(sample_ids), context_length)
        inputs = np.full(shape, self.manifest.eos_id, dtype=self.token_set.dtype)
        targets, weights, ids = inputs.copy(), np.zeros(shape, np.float32), np.zeros(shape, np.int32)
        for row, sample in enumerate(sample_ids):
            column = 0
            for number, piece in enumerate(range(self._firsts[sample], self._firsts[sample + 1])):
                size = int(self._lengths[piece])
                tokens = self.token_set.read(self._begins[piece : piece + 1], size + 1)[0]
                place = slice(column, column + size)
                inputs[row, place], targets[row, place] = tokens[:-1], tokens[1:]
                weights[row, place], ids[row, place] = 1.0, number
                column += size
            ids[row, column:] = ids[row, column - 1] + 1  # what is empty is a document of its own
        return Arrays(inputs, targets, weights, ids)

    def prefetch(self, sample_ids: Ids, context_length: int) -> None:
        """Packed sets read what they need when they need it."""

    def _pack_all(self) -> tuple[npt.NDArray, ...]:
        begins, lengths, counts, pools = [], [], [], []
        for first_token, ends in self.token_set.pool_documents():
            sequences = 0
            starts = np.concatenate([[0], ends[:-1]])
            for group in range(0, len(ends), GROUP):
                part = slice(group, group + GROUP)
                sequence, document, offset, size = pack(ends[part] - starts[part] - 1, self.context_length)
                begins.append(first_token + starts[part][document] + offset)
                lengths.append(size.astype(np.int32))
                counts.append(np.bincount(sequence))
                sequences += len(counts[-1])
            pools.append(sequences)
        firsts = np.concatenate([[0], np.cumsum(np.concatenate([*counts, []]))]).astype(np.int64)
        return np.concatenate(begins), np.concatenate(lengths), firsts, np.array(pools, dtype=np.int64)


def _kept(directory: Path | None, stem: str, compute: object) -> tuple[npt.NDArray, ...]:
    """Return arrays from their file, or compute and keep them."""
    assert callable(compute)
    names = ("begins", "lengths", "firsts", "pools")
    paths = [directory / f"{stem}-{name}.npy" for name in names] if directory else []
    if paths and all(path.exists() for path in paths):
        return tuple(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
    arrays: tuple[npt.NDArray, ...] = compute()
    try:
        for path, array in zip(paths, arrays, strict=bool(paths)):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{id(array)}.npy")
            np.save(temporary, array, allow_pickle=False)
            temporary.replace(path)
    except OSError:
        return arrays  # a read-only set: every process packs for itself
    return arrays
