"""Best-fit packing: whole documents in sequences, so that few are cut and no target crosses from one to the next.

A document of n tokens, its end token included, is n pairs of an input and its target: the first token is predicted
from an end token, as it is in a stream of documents. So a document's beginning is learned, and decoding that starts
from an end token begins a document. Documents with more pairs than a sequence has places are cut into full sequences
and a rest; a piece that continues a document begins with the last token of the piece before as its input. Rests and
short documents go, longest first, each into the sequence with the least room that still fits (best-fit decreasing; Ding
et al. 2024, arXiv 2404.10830). Neighbouring documents are packed in groups, so that a sample's documents lie near each
other on disk. Places that stay empty have weight 0.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from trainer.contract.run_dir import write_atomically
from trainer.data.order.order import Ids
from trainer.data.store.token_set import Arrays, TokenSet

GROUP = 65_536  # documents that are packed together
VERSION = 2  # of what is packed, and how; 1 left out the pair of a document's first token
Pieces = tuple[Ids, Ids, Ids, Ids]


@dataclass(frozen=True)
class Packing:
    """Pieces of documents, in the order of their sequences. Positions are in the stream of all pools of a TokenSet."""

    begins: Ids  # the position of each piece's first target
    lengths: npt.NDArray[np.int32]  # pairs of each piece
    starts: npt.NDArray[np.bool_]  # whether the piece begins its document: its first input is an end token
    firsts: Ids  # the first piece of each sequence, and the number of pieces at the end
    pools: Ids  # the sequences of each source


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
    placed = best_fit((pairs[rests] % capacity).tolist(), capacity)
    sequence = np.concatenate([np.arange(len(document)), np.array(placed, dtype=np.int64) + len(document)])
    documents = np.concatenate([document, rests])
    offsets = np.concatenate([number, full[rests]]) * capacity
    sizes = np.concatenate([np.full(len(document), capacity), pairs[rests] % capacity])
    order = np.lexsort((documents, sequence))
    return sequence[order], documents[order], offsets[order], sizes[order]


def best_fit(sizes: list[int], capacity: int) -> list[int]:
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
        stem = f"{self.manifest.data_hash}-{self.split.replace(':', '-')}-{context_length}-v{VERSION}"
        self.packing = _kept(directory, stem, self._pack_all)

    def pool_samples(self, context_length: int) -> npt.NDArray[np.int64]:
        """Return the number of sequences of each source."""
        assert context_length == self.context_length
        return self.packing.pools

    def num_samples(self, context_length: int) -> int:
        """Return the number of sequences."""
        return int(self.pool_samples(context_length).sum())

    def arrays(self, sample_ids: Ids, context_length: int, *, documents: bool = True) -> Arrays:
        """Return packed sequences. Documents always come with them: without a mask, packing makes little sense."""
        assert context_length == self.context_length
        return lay_out(self.token_set, self.packing, sample_ids, context_length)

    def prefetch(self, sample_ids: Ids, context_length: int) -> None:
        """Packed sets read what they need when they need it."""

    def _pack_all(self) -> Packing:
        none = np.zeros(0, dtype=np.int64)
        begins, lengths, starts, counts, pools = [none], [none.astype(np.int32)], [none.astype(bool)], [none], []
        for first_token, ends in self.token_set.pool_documents():
            sequences = 0
            firsts = np.concatenate([[0], ends[:-1]])
            for group in range(0, len(ends), GROUP):
                part = slice(group, group + GROUP)
                sequence, document, offset, size = pack(ends[part] - firsts[part], self.context_length)
                begins.append(first_token + firsts[part][document] + offset)
                lengths.append(size.astype(np.int32))
                starts.append(offset == 0)
                counts.append(np.bincount(sequence))
                sequences += len(counts[-1])
            pools.append(sequences)
        return Packing(
            np.concatenate(begins),
            np.concatenate(lengths),
            np.concatenate(starts),
            np.concatenate([[0], np.cumsum(np.concatenate(counts))]),
            np.array(pools, dtype=np.int64),
        )


def lay_out(
    token_set: TokenSet,
    packing: Packing,
    sequences: Ids,
    context_length: int,
    weigh: Callable[[Ids], npt.NDArray[np.float32]] | None = None,
) -> Arrays:
    """Return packed sequences: their pieces side by side, each a document of its own, then empty places of weight 0.

    `weigh` gives the weights of targets from their positions in the stream; by default each has weight 1.
    """
    shape = (len(sequences), context_length)
    inputs = np.full(shape, token_set.manifest.eos_id, dtype=token_set.dtype)
    targets, weights, ids = inputs.copy(), np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    for row, sequence in enumerate(sequences):
        column = 0
        for number, piece in enumerate(range(packing.firsts[sequence], packing.firsts[sequence + 1])):
            begin, end = column, column + int(packing.lengths[piece])
            place, first = slice(begin, end), packing.begins[piece : piece + 1]
            if packing.starts[piece]:  # the input before the first target stays an end token
                targets[row, place] = token_set.read(first, end - begin)[0]
                inputs[row, begin + 1 : end] = targets[row, begin : end - 1]
            else:
                tokens = token_set.read(first - 1, end - begin + 1)[0]
                inputs[row, place], targets[row, place] = tokens[:-1], tokens[1:]
            weights[row, place] = 1.0 if weigh is None else weigh(first + np.arange(end - begin))
            ids[row, place] = number
            column = end
        ids[row, column:] = ids[row, column - 1] + 1  # what is empty is a document of its own
    return Arrays(inputs, targets, weights, ids)


def _kept(directory: Path | None, stem: str, compute: Callable[[], Packing]) -> Packing:
    """Return a packing from its files, or compute and keep it. Damaged files are made anew."""
    if directory is None:
        return compute()
    paths = {field.name: directory / f"{stem}-{field.name}.npy" for field in fields(Packing)}
    note = directory / f"{stem}.json"  # the hash of each file, written last
    if (known := _read_note(note)) and all(known.get(name) == _hash(path) for name, path in paths.items()):
        return Packing(*(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths.values()))
    packing = compute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            temporary = path.with_name(f".{path.name}.{os.getpid()}.npy")
            np.save(temporary, getattr(packing, name), allow_pickle=False)
            temporary.replace(path)
        write_atomically(note, json.dumps({name: _hash(path) for name, path in paths.items()}) + "\n")
    except OSError:
        return packing  # a read-only set: every process packs for itself
    return packing


def _read_note(note: Path) -> dict[str, str]:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _hash(path: Path) -> str | None:
    """Return the XXH3-128 of a file, which takes a tenth of a second for each gigabyte; None where it is missing."""
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
