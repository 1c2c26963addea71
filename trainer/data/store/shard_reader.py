"""Read one shard: memory-mapped when it is needed, each block verified when it is first touched."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from trainer.contract.errors import UserError
from trainer.data.order.order import Ids
from trainer.data.store.manifest import Manifest, Shard

Fetch = Callable[[str], Path]  # the path in the set -> the file on this machine
ATTEMPTS = 3  # another rank may evict a file from the cache just before it is opened
_MEND = "copy it again, or remove the set and prepare it again"


class ShardReader:
    """The tokens and the document ends of one shard. Raises UserError for what is not what was written."""

    def __init__(self, shard: Shard, manifest: Manifest, fetch: Fetch, *, verify: bool) -> None:
        self.shard, self.fetch = shard, fetch
        self.dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self.block_bytes = manifest.block_bytes
        self._tokens: npt.NDArray | None = None
        self._unverified = -(-shard.tokens * self.dtype.itemsize // self.block_bytes) if verify else 0
        self._verified = np.zeros(self._unverified, dtype=bool)

    def copy(self, begins: Ids, out: npt.NDArray, rows: Ids, column: int, length: int) -> None:
        """Copy `length` tokens from each of `begins` into rows of `out`, from `column` on."""
        tokens = self._tokens if self._tokens is not None else self._map()
        if self._unverified:
            self._verify(tokens, begins, length)
        windows = np.lib.stride_tricks.as_strided(
            tokens, (len(tokens) - length + 1, length), tokens.strides * 2, writeable=False
        )
        if length == out.shape[1]:
            out[rows] = windows[begins]
        else:
            out[rows, column : column + length] = windows[begins]

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where each document ends, in tokens of the shard."""
        return self._side_file(".docs", self.shard.documents_hash).astype(np.int64)

    def close(self) -> None:
        """Let the memory map go. What was verified stays so."""
        self._tokens = None

    def _map(self) -> npt.NDArray:
        expected = self.shard.tokens * self.dtype.itemsize
        for _ in range(ATTEMPTS):
            path = self.fetch(f"{self.shard.file}.bin")
            with contextlib.suppress(FileNotFoundError):
                if (size := path.stat().st_size) != expected:
                    raise UserError(f"shard {path} has {size} bytes, the manifest says {expected}; {_MEND}")
                self._tokens = np.memmap(path, dtype=self.dtype, mode="r").view(np.ndarray)
                return self._tokens
        raise UserError(f"shard {path} is missing; {_MEND}")

    def _verify(self, tokens: npt.NDArray, begins: Ids, length: int) -> None:
        """Check the blocks of these reads that nobody touched before."""
        per_block = self.block_bytes // self.dtype.itemsize
        first, last = begins // per_block, (begins + length - 1) // per_block
        touched = np.minimum(first[:, None] + np.arange(int((last - first).max()) + 1), last[:, None])
        blocks = np.unique(touched[~self._verified[touched]])
        content, size = tokens.data.cast("B"), self.block_bytes
        for block, expected in zip(blocks.tolist(), self._hashes[blocks].tolist(), strict=True):
            begin = block * size
            if xxhash.xxh3_64_intdigest(content[begin : begin + size]) != expected:
                raise UserError(
                    f"shard {self.shard.file}.bin is damaged: bytes {begin} to "
                    f"{min(begin + size, len(content)) - 1} are not what was written; {_MEND}"
                )
        self._verified[blocks] = True
        self._unverified -= len(blocks)

    @cached_property
    def _hashes(self) -> npt.NDArray[np.uint64]:
        return self._side_file(".xxh", self.shard.blocks_hash)

    def _side_file(self, suffix: str, expected: str) -> npt.NDArray[np.uint64]:
        content = b""
        for _ in range(ATTEMPTS):
            path = self.fetch(self.shard.file + suffix)
            with contextlib.suppress(FileNotFoundError):
                content = path.read_bytes()
                break
        if hashlib.sha256(content).hexdigest() != expected:
            raise UserError(f"{path} is missing or damaged: its hash is not the manifest's; {_MEND}")
        return np.frombuffer(content, dtype="<u8")
