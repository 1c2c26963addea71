"""What is in a prepared set, in numbers and in decoded samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.order.order import shuffled
from trainer.data.store.manifest import Manifest
from trainer.data.store.token_set import TokenSet
from trainer.data.tokenize.tokenizer import check_tokenizer, load_tokenizer


def summary(manifest: Manifest) -> dict[str, Any]:
    """Return the counts of each split and of each of its sources."""
    return {
        "name": manifest.name,
        "complete": manifest.complete,
        "data_hash": manifest.data_hash,
        "config_hash": manifest.config_hash,
        "tokenizer": {"hash": manifest.tokenizer_hash, "vocab_size": manifest.vocab_size, "dtype": manifest.dtype},
        "splits": {
            split: {
                **_counts(manifest, split),
                "sources": {source: _counts(manifest, f"{split}:{source}") for source in manifest.sources(split)},
            }
            for split in manifest.splits
        },
        "report": manifest.report,
    }


def _counts(manifest: Manifest, split: str) -> dict[str, object]:
    tokens = manifest.tokens(split)
    return {
        "shards": len(manifest.shards(split)),
        "documents": manifest.documents(split),
        "tokens": tokens,
        "text_bytes": manifest.text_bytes(split),
        "bytes_per_token": round(manifest.bytes_per_token(split), 4) if manifest.text_bytes(split) else None,
    }


def samples(directory: Path, split: str, count: int, length: int, seed: int) -> list[dict[str, Any]]:
    """Return decoded stretches of `length` tokens from random places of a split; of fewer where it has no more."""
    tokens = TokenSet.open(directory, split)
    manifest = tokens.manifest
    check_tokenizer(directory, manifest.tokenizer_hash)
    tokenizer = load_tokenizer(directory)
    longest = max((manifest.tokens(f"{split}:{source}") for source in tokens.sources), default=0)
    length = max(1, min(length, longest - 1))  # a sample has a next token, which is not shown: here the last end
    available = tokens.num_samples(length)
    if available == 0:  # empty, or nothing but ends of documents
        return []
    ids = shuffled(np.arange(min(count, available), dtype=np.int64), available, seed)
    begins = tokens.begins(ids, length)
    rows = tokens.read(begins, length)
    return [
        {"token": int(begin), "source": tokens.source_at(int(begin)), "text": tokenizer.decode(row.tolist())}
        for begin, row in zip(begins, rows, strict=True)
    ]
