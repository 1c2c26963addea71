"""The tokenizer of a set: made once, from a sample of the training documents of all sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer.config.data import TRAIN, DataConfig
from trainer.data.encode import SplitRule
from trainer.data.progress import Progress
from trainer.data.sources import Source
from trainer.data.tokenizer import DIRECTORY, META, Tokenizer, load_tokenizer
from trainer.data.tokenizer_training import make_tokenizer

SAMPLED_PARTS = 16


def ensure_tokenizer(config: DataConfig, sources: list[Source], root: Path, progress: Progress) -> Tokenizer:
    """Return the set's tokenizer; the first process to come here makes it."""
    directory = root / DIRECTORY
    if (directory / META).exists():
        return load_tokenizer(directory)
    trained = config.tokenizer.kind in ("bpe", "unigram")
    if trained:
        progress.say(
            f"{config.name}: training a {config.tokenizer.kind} tokenizer of {config.tokenizer.vocab_size} pieces "
            f"on up to {config.tokenizer.sample_bytes / 1e6:g} MB"
        )
    tokenizer = make_tokenizer(config.tokenizer, sample(config, sources), directory)
    progress.say(f"{config.name}: tokenizer {tokenizer.hash}, {tokenizer.vocab_size} pieces")
    return tokenizer


def sample(config: DataConfig, sources: list[Source]) -> Iterator[str]:
    """Yield training documents of all sources by their weights, from parts spread evenly, up to `sample_bytes`."""
    rule = SplitRule(config.held_out_fraction)
    weights = [source.weight or 1.0 for source in config.sources]
    for source, weight in zip(sources, weights, strict=True):
        num_parts = min(source.num_parts, SAMPLED_PARTS)
        budget = int(config.tokenizer.sample_bytes * weight / sum(weights) / num_parts)
        for k in range(num_parts):
            left = budget
            cap = source.part_budget()
            for text in source.documents(k * source.num_parts // num_parts, cap):
                raw = text.encode("utf-8", errors="replace")
                if rule(raw) != TRAIN:
                    continue
                yield raw[:left].decode(errors="ignore")
                left -= len(raw)
                if left <= 0:
                    break
