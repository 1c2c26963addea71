"""Small token sets made without sources: each document's tokens are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.data.store.manifest import Manifest
from trainer.data.store.shard_writer import Encoded, ShardWriter
from trainer.data.store.token_set import TokenSet

EOS = 999


def write_set(
    root: Path,
    sources: dict[str, Sequence[Sequence[int]]],
    *,
    shard_tokens: int = 1024,
    held_out: Sequence[Sequence[int]] = (),
    dtype: str = "uint16",
) -> Manifest:
    """Write documents, given without their end token, as the training split of each source."""
    splits = {
        "train": [
            s for tag, docs in sources.items() for s in write_shards(root, "train", tag, docs, shard_tokens, dtype)
        ],
        "held_out": write_shards(root, "held_out", next(iter(sources)), held_out, shard_tokens, dtype),
    }
    manifest = Manifest(
        name="made",
        complete=True,
        dtype=dtype,
        vocab_size=1000,
        eos_id=EOS,
        tokenizer_hash="none",
        config_hash="",
        config={},
        splits=splits,
    )
    manifest.save(root)
    return manifest


def write_shards(
    root: Path,
    split: str,
    tag: str,
    docs: Sequence[Sequence[int]],
    shard_tokens: int,
    dtype: str,
    eos: int = EOS,
) -> list:
    itemsize = np.dtype(dtype).itemsize
    writer = ShardWriter(root, f"{split}/{tag}", tag, itemsize, shard_tokens)
    for doc in docs:
        tokens = np.array([*doc, eos], dtype=f"<u{itemsize}")
        writer.append(Encoded(tokens.tobytes(), [len(tokens)], [3 * len(doc)], [len(doc)]))
    return writer.close()


def stream(docs: Sequence[Sequence[int]]) -> np.ndarray:
    """Return documents as one row of tokens."""
    return np.array([token for doc in docs for token in (*doc, EOS)], dtype=np.int64)


def random_docs(seed: int, count: int, longest: int = 60) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, EOS, size=rng.integers(0, longest)).tolist() for _ in range(count)]


def open_train(root: Path) -> TokenSet:
    return TokenSet.open(root, "train")
