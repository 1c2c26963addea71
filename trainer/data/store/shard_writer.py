"""Write the shards of one part of one source. A file gets its name when all of it is on disk."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from trainer.contract.errors import UserError
from trainer.data.store.manifest import BLOCK_BYTES, Shard


@dataclass(frozen=True)
class Encoded:
    """Consecutive documents of one split as tokens. `tokens` is little-endian in the set's dtype."""

    tokens: bytes
    lengths: list[int]  # tokens of each document, its end included
    text_bytes: list[int]  # UTF-8 bytes of each document
    words: list[int]  # white-space separated words of each document


@dataclass
class _Open:
    """The shard that is being written."""

    out: BinaryIO
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    blocks: list[int] = field(default_factory=list)
    pending: bytearray = field(default_factory=bytearray)  # begun block
    lengths: list[int] = field(default_factory=list)
    text_bytes: int = 0
    words: int = 0
    tokens: int = 0


class ShardWriter:
    """Appends documents and rolls over to the next shard at the first document beyond `shard_tokens`.

    `stem` is the path of the shards without number and suffix, for instance `<set>/train/embedded-0000`. Raises
    UserError when the disk is full; what was published before stays as it was.
    """

    def __init__(self, root: Path, stem: str, source: str, itemsize: int, shard_tokens: int) -> None:
        self.root, self.stem, self.source = root, stem, source
        self.itemsize, self.shard_tokens = itemsize, shard_tokens
        self.finished: list[Shard] = []
        self._open: _Open | None = None

    def append(self, piece: Encoded) -> None:
        """Add documents. They are not split over shards."""
        taken = 0
        lengths = np.cumsum(piece.lengths)
        with self._explaining_full_disk():
            while taken < len(piece.lengths):
                room = self.shard_tokens - (self._open.tokens if self._open else 0)
                done = int(lengths[taken - 1]) if taken else 0
                upto = min(int(np.searchsorted(lengths, done + room)) + 1, len(piece.lengths))
                self._write(piece, taken, upto, done, int(lengths[upto - 1]))
                taken = upto

    def close(self) -> list[Shard]:
        """Finish the last shard and return the records of all."""
        with self._explaining_full_disk():
            self._finish()
        return self.finished

    def abandon(self) -> None:
        """Remove what is unfinished."""
        if self._open:
            self._open.out.close()
            self._open = None
            self._path(".bin.tmp").unlink(missing_ok=True)

    def _write(self, piece: Encoded, first: int, upto: int, begin: int, end: int) -> None:
        if self._open is None:
            self._path(".bin").parent.mkdir(parents=True, exist_ok=True)
            self._open = _Open(self._path(".bin.tmp").open("wb"))
        shard, tokens = self._open, memoryview(piece.tokens)[begin * self.itemsize : end * self.itemsize]
        shard.out.write(tokens)
        shard.digest.update(tokens)
        shard.pending += tokens
        whole = len(shard.pending) // BLOCK_BYTES * BLOCK_BYTES
        shard.blocks += block_hashes(memoryview(shard.pending)[:whole])
        del shard.pending[:whole]
        shard.lengths += piece.lengths[first:upto]
        shard.text_bytes += sum(piece.text_bytes[first:upto])
        shard.words += sum(piece.words[first:upto])
        shard.tokens += end - begin
        if shard.tokens >= self.shard_tokens:
            self._finish()

    def _finish(self) -> None:
        if self._open is None:
            return
        shard = self._open
        shard.blocks += block_hashes(shard.pending)
        _to_disk(shard.out)
        hashes = np.asarray(shard.blocks, dtype="<u8").tobytes()
        ends = np.cumsum(np.asarray(shard.lengths, dtype="<u8")).astype("<u8").tobytes()
        for suffix, content in ((".xxh", hashes), (".docs", ends)):
            with self._path(suffix).open("wb") as out:
                out.write(content)
                _to_disk(out)
        self._path(".bin.tmp").replace(self._path(".bin"))
        self.finished.append(
            Shard(
                file=self._path("").relative_to(self.root).as_posix(),
                source=self.source,
                tokens=shard.tokens,
                documents=len(shard.lengths),
                text_bytes=shard.text_bytes,
                words=shard.words,
                hash=shard.digest.hexdigest(),
                blocks_hash=hashlib.sha256(hashes).hexdigest(),
                documents_hash=hashlib.sha256(ends).hexdigest(),
            )
        )
        self._open = None

    def _path(self, suffix: str) -> Path:
        return self.root / f"{self.stem}-{len(self.finished):05d}{suffix}"

    def _explaining_full_disk(self) -> _ExplainFullDisk:
        return _ExplainFullDisk(self)


class _ExplainFullDisk:
    """Turns 'no space left' into a sentence, after removing the unfinished shard."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            self.writer.abandon()
            raise UserError(
                f"the disk is full while writing {self.writer.stem}: {error.strerror}. "
                f"Finished parts are kept; make room below {self.writer.root} and run the same command again"
            ) from None


def _to_disk(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())
    out.close()


def block_hashes(content: bytes | bytearray | memoryview, block_bytes: int = BLOCK_BYTES) -> list[int]:
    """Return XXH3-64 of each block of the content; the last block may be shorter."""
    view = memoryview(content)
    return [xxhash.xxh3_64_intdigest(view[i : i + block_bytes]) for i in range(0, len(view), block_bytes)]
