"""Check that a prepared set is what was written: every file, every hash, every token's range."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.contract.errors import UserError
from trainer.data.store.manifest import Manifest, Shard
from trainer.data.store.shard_writer import block_hashes
from trainer.data.tokenize.tokenizer import DIRECTORY, load_tokenizer

READ_BLOCKS = 64


def verify(directory: Path, progress: Callable[[int], None] = lambda read: None) -> list[str]:
    """Return everything that is wrong with the set, one sentence each; an empty list for a sound set.

    `progress` is told how many bytes were read since it was last called.
    """
    manifest = Manifest.open(directory)
    problems = list(_tokenizer_problems(directory, manifest))
    for split in manifest.splits:
        for shard in manifest.shards(split):
            problems += _shard_problems(directory, manifest, shard, progress)
    return problems


def set_bytes(manifest: Manifest) -> int:
    """Return the bytes that `verify` reads."""
    return sum(manifest.tokens(split) for split in manifest.splits) * np.dtype(manifest.dtype).itemsize


def _tokenizer_problems(directory: Path, manifest: Manifest) -> Iterator[str]:
    try:
        tokenizer = load_tokenizer(directory)
    except UserError as error:
        if (directory / DIRECTORY).exists() or manifest.config:
            yield str(error)
        return
    if tokenizer.hash != manifest.tokenizer_hash:
        yield f"tokenizer: its hash is {tokenizer.hash}, the set was made with {manifest.tokenizer_hash}"


def _shard_problems(
    directory: Path, manifest: Manifest, shard: Shard, progress: Callable[[int], None]
) -> Iterator[str]:
    dtype = np.dtype(manifest.dtype).newbyteorder("<")
    path, expected = directory / f"{shard.file}.bin", shard.tokens * dtype.itemsize
    blocks = yield from _side(directory, shard, ".xxh", shard.blocks_hash)
    ends = yield from _side(directory, shard, ".docs", shard.documents_hash)
    if ends is not None and (len(ends) != shard.documents or int(ends[-1]) != shard.tokens):
        yield f"{shard.file}.docs: {len(ends)} documents end at token {ends[-1]}, the manifest says {shard.documents}"
    size = path.stat().st_size if path.exists() else None
    if size != expected:
        yield f"{shard.file}.bin: " + ("missing" if size is None else f"{size} bytes, the manifest says {expected}")
        return
    digest, number, largest = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while content := file.read(READ_BLOCKS * manifest.block_bytes):
            digest.update(content)
            largest = max(largest, int(np.frombuffer(content, dtype=dtype).max()))
            for found in block_hashes(content, manifest.block_bytes):
                if blocks is not None and found != int(blocks[number]):
                    begin = number * manifest.block_bytes
                    yield f"{shard.file}.bin: damaged between byte {begin} and {begin + manifest.block_bytes}"
                number += 1
            progress(len(content))
    if digest.hexdigest() != shard.hash:
        yield f"{shard.file}.bin: its hash is not the manifest's"
    if largest >= manifest.vocab_size:
        yield f"{shard.file}.bin: token {largest} is outside the vocabulary of {manifest.vocab_size}"


def _side(
    directory: Path, shard: Shard, suffix: str, expected: str
) -> Generator[str, None, npt.NDArray[np.uint64] | None]:
    path = directory / (shard.file + suffix)
    if not path.exists():
        yield f"{shard.file}{suffix}: missing"
        return None
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        yield f"{shard.file}{suffix}: its hash is not the manifest's"
        return None
    return np.frombuffer(content, dtype="<u8")
