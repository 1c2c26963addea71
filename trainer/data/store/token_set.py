"""Read a prepared split: samples gathered from its shards.

The shards of one source, in their order, are one long stream of tokens: a pool. A sample is `context_length` tokens of
a pool and the one after them, and sample k of a pool begins at token k * context_length: every token is a target once.
Samples of all pools are numbered through.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.data.order.order import Ids
from trainer.data.store.manifest import Manifest
from trainer.data.store.shard_reader import Fetch, ShardReader


@dataclass(frozen=True)
class Arrays:
    """n samples of T tokens as NumPy arrays, each (n, T)."""

    inputs: npt.NDArray
    targets: npt.NDArray
    weights: npt.NDArray[np.float32] | None = None
    documents: npt.NDArray[np.int32] | None = None
    begins: npt.NDArray[np.bool_] | None = None  # (n): which samples do not follow those that were read before


MOST_OPEN = 256  # memory maps, each of which holds a file descriptor


class TokenSet:
    """One split of a prepared set. Cheap to open: shards are mapped when they are needed."""

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        fetch: Fetch,
        *,
        verify: bool = True,
        prefetch: Callable[[Iterable[str]], None] | None = None,
        most_open: int = MOST_OPEN,
    ) -> None:
        self.manifest, self.split, self.fetch, self.verify = manifest, split, fetch, verify
        self._prefetch, self._most_open = prefetch, most_open
        self.sources = manifest.sources(split)
        shards = manifest.shards(split)
        self.shards = [shard for source in self.sources for shard in shards if shard.source == source]
        self.dtype = np.dtype(manifest.dtype).newbyteorder("<")
        sizes = np.array([shard.tokens for shard in self.shards], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])  # of each shard in the stream of all pools
        self._pool_tokens = np.array(
            [sum(shard.tokens for shard in shards if shard.source == source) for source in self.sources], dtype=np.int64
        )
        self._readers: dict[int, ShardReader] = {}
        self._open: OrderedDict[int, ShardReader] = OrderedDict()  # those with a map, the last used at the end

    @classmethod
    def open(cls, directory: str | Path, split: str = "train", *, verify: bool = True) -> TokenSet:
        """Open a split of the set in a local directory. `held_out:<source>` is the part from one source."""
        root = Path(directory)
        return cls(Manifest.open(root), split, lambda file: root / file, verify=verify)

    def pool_samples(self, context_length: int) -> npt.NDArray[np.int64]:
        """Return the number of samples of each source, in the order of `sources`."""
        return np.maximum(0, (self._pool_tokens - 1) // context_length)

    def num_samples(self, context_length: int) -> int:
        """Return how many sequences of `context_length` tokens the split has."""
        return int(self.pool_samples(context_length).sum())

    def gather(self, sample_ids: Ids, context_length: int) -> npt.NDArray:
        """Return the tokens of samples, in the set's dtype. Shape (n, context_length + 1).

        Raises UserError naming the shard when it is missing, truncated, or not what was written.
        """
        return self.read(self.begins(sample_ids, context_length), context_length + 1)

    def documents(self, sample_ids: Ids, context_length: int) -> npt.NDArray[np.int32]:
        """Return the number of the document, counted within its sample, of each input. Shape (n, context_length).

        An end token belongs to the document that it begins, since it is the input from which that document's first
        token is predicted. So nothing of the document before is seen from there.
        """
        out = np.zeros((len(sample_ids), context_length), dtype=np.int32)
        for rows, shard, begin, column, length in self._pieces(self.begins(sample_ids, context_length), context_length):
            last_tokens = self._reader(shard).ends - 1
            # The first input of a sample begins its first document, whatever it is.
            first = np.searchsorted(last_tokens, begin, side="left" if column else "right")
            last = np.searchsorted(last_tokens, begin + length, side="left")
            counts = last - first
            row_of = np.repeat(np.arange(len(begin)), counts)
            which = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[row_of]
            out[rows[row_of], column + last_tokens[which] - begin[row_of]] = 1
        return np.cumsum(out, axis=1, dtype=np.int32)

    def arrays(self, sample_ids: Ids, context_length: int, *, documents: bool = False) -> Arrays:
        """Return samples as inputs and targets in int64, with the numbers of their documents where asked for.

        Inputs and targets are two views of the same tokens: one conversion serves both.
        """
        tokens = self.gather(sample_ids, context_length).astype(np.int64)
        numbers = self.documents(sample_ids, context_length) if documents else None
        return Arrays(tokens[:, :-1], tokens[:, 1:], documents=numbers)

    def segments(
        self, sample_ids: Ids, context_length: int, begins: npt.NDArray[np.bool_], *, documents: bool = False
    ) -> Arrays:
        """Return samples of which some follow what was read before, as `begins` (n) says.

        Documents then have the same number in every sample: they are counted from the beginning of the stream.
        """
        arrays = self.arrays(sample_ids, context_length, documents=documents)
        if arrays.documents is None:
            return replace(arrays, begins=begins)
        numbers = arrays.documents + self._document_at(self.begins(sample_ids, context_length))[:, None]
        return replace(arrays, documents=numbers, begins=begins)

    def _document_at(self, positions: Ids) -> npt.NDArray[np.int32]:
        """Return the number, in the stream of all pools, of the document that each of its tokens (n) is an input of."""
        before = np.cumsum([0, *(shard.documents for shard in self.shards)])
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        numbers = np.empty(len(positions), dtype=np.int32)
        for shard in np.unique(shards):
            mine = shards == shard
            last_tokens = self._reader(int(shard)).ends - 1
            inside = np.searchsorted(last_tokens, positions[mine] - self._starts[shard], side="right")
            numbers[mine] = before[shard] + inside
        return numbers

    def prefetch(self, sample_ids: Ids, context_length: int) -> None:
        """Begin to fetch the shards of samples that will be read soon, where the set is remote."""
        if self._prefetch is not None:
            shards = np.unique(np.searchsorted(self._starts, self.begins(sample_ids, context_length), side="right") - 1)
            names = [self.shards[int(number)].file for number in shards]
            self._prefetch(name + suffix for name in names for suffix in (".xxh", ".bin"))

    def pool_documents(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield for each source the position of its first token in the stream of all, and its documents' ends in it."""
        for source in self.sources:
            numbers = [number for number, shard in enumerate(self.shards) if shard.source == source]
            first = int(self._starts[numbers[0]])
            yield first, np.concatenate([self._reader(n).ends + int(self._starts[n]) - first for n in numbers])

    def begins(self, sample_ids: Ids, context_length: int) -> Ids:
        """Return where samples begin in the stream of all pools."""
        firsts = np.cumsum(self.pool_samples(context_length))
        pool = np.searchsorted(firsts, sample_ids, side="right")
        assert len(sample_ids) == 0 or pool.max() < len(firsts), "a sample beyond the end of the set"
        pool_first = firsts[pool] - self.pool_samples(context_length)[pool]
        pool_begin = (np.cumsum(self._pool_tokens) - self._pool_tokens)[pool]
        begins: Ids = pool_begin + (sample_ids - pool_first) * context_length
        return begins

    def source_at(self, position: int) -> str:
        """Return the source of a token of the stream of all pools."""
        return self.shards[int(np.searchsorted(self._starts, position, side="right")) - 1].source

    def read(self, begins: Ids, length: int) -> npt.NDArray:
        """Return `length` tokens from each position of the stream. Shape (n, length)."""
        out = np.empty((len(begins), length), dtype=self.dtype)
        for rows, shard, begin, column, size in self._pieces(begins, length):
            self._opened(shard).copy(begin, out, rows, column, size)
        return out

    def _pieces(self, begins: Ids, length: int) -> list[tuple[Ids, int, Ids, int, int]]:
        """Cut reads at shard borders: (rows, shard, begins in the shard, column, length) with one shard each."""
        first = np.searchsorted(self._starts, begins, side="right") - 1
        inside = begins + length <= self._starts[first + 1]
        pieces = []
        whole = np.flatnonzero(inside)
        order = whole[np.argsort(first[whole], kind="stable")]
        for rows in np.split(order, np.flatnonzero(np.diff(first[order])) + 1):
            if len(rows):
                shard = int(first[rows[0]])
                pieces.append((rows, shard, begins[rows] - self._starts[shard], 0, length))
        for row in np.flatnonzero(~inside):
            column, shard = 0, int(first[row])
            while column < length:
                begin = int(begins[row]) + column
                size = min(length - column, int(self._starts[shard + 1]) - begin)
                pieces.append((np.array([row]), shard, np.array([begin - self._starts[shard]]), column, size))
                column, shard = column + size, shard + 1
        return pieces

    def _reader(self, number: int) -> ShardReader:
        """Return the reader of a shard."""
        reader = self._readers.get(number)
        if reader is None:
            reader = ShardReader(self.shards[number], self.manifest, self.fetch, verify=self.verify)
            self._readers[number] = reader
        return reader

    def _opened(self, number: int) -> ShardReader:
        """Return the reader of a shard whose tokens are wanted. Few maps stay open."""
        reader = self._reader(number)
        self._open[number] = reader
        self._open.move_to_end(number)
        if len(self._open) > self._most_open:
            self._open.popitem(last=False)[1].close()
        return reader
