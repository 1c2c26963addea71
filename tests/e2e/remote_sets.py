"""A small set to serve, and how it is read: what the tests of remote file systems share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.data.builders import random_docs, write_set
from trainer.config.data import CacheConfig, DataConfig, SourceConfig
from trainer.data.store.cache import ShardCache, read_manifest

T = 16


def write_local(directory: Path) -> Path:
    """Write the set below a directory that will be served, and return its own."""
    write_set(directory / "made", {"a": random_docs(1, 400)}, shard_tokens=1000, held_out=random_docs(3, 30))
    return directory / "made"


def data(root: str, tmp_path: Path, **cache: Any) -> DataConfig:
    """Return the configuration of the set below a root, with a cache of its own."""
    return DataConfig(
        name="made",
        root=root,
        sources=(SourceConfig(name="a", path="x.jsonl"),),
        cache=CacheConfig(directory=str(tmp_path / "cache"), **cache),
    )


def rows(config: DataConfig, steps: range) -> np.ndarray:
    """Return the inputs of some steps."""
    from trainer.data.read.opening import open_batches  # not above: processes that fetch alone need no torch

    batches = open_batches(config, context_length=T, sequences_per_step=8, micro_batch=8, seed=1)
    try:
        return np.concatenate([batches.step(step)[0].inputs.numpy() for step in steps])
    finally:
        batches.close()


def fetch_all(arguments: tuple[str, str, list[str]]) -> list[str]:
    """Fetch files into a cache, as each rank of a node does in a process of its own."""
    url, directory, files = arguments
    cache = ShardCache(url, read_manifest(url), CacheConfig(directory=directory))
    return [str(cache.fetch(file)) for file in files]


def kept(tmp_path: Path) -> int:
    """Return the bytes that the cache of `data` holds."""
    files = (tmp_path / "cache").rglob("*.*")
    return sum(file.stat().st_size for file in files if file.suffix in (".bin", ".xxh", ".docs"))
