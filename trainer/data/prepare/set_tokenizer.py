"""The tokenizer of a set: made once, from a sample of the training documents of all sources, and tried on it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from trainer.config.data import TRAIN, DataConfig
from trainer.contract.errors import UserError
from trainer.data.prepare.encode import SplitRule
from trainer.data.prepare.progress import Progress
from trainer.data.source.sources import Source
from trainer.data.tokenize import round_trip
from trainer.data.tokenize.round_trip import Kept
from trainer.data.tokenize.tokenizer import DIRECTORY, META, Tokenizer, load_tokenizer
from trainer.data.tokenize.tokenizer_training import make_tokenizer

SAMPLED_PARTS = 16
TRIED_BYTES = 1_000_000  # of each set's sources, to try an existing tokenizer on


def ensure_tokenizer(config: DataConfig, sources: list[Source], root: Path, progress: Progress) -> Tokenizer:
    """Return the set's tokenizer; the first process to come here makes it, and warns where it alters text.

    Raises UserError where it cannot be made or cannot encode the sources; the directory is then as it was, so that
    another tokenizer can be tried under the same name.
    """
    directory, kept = root / DIRECTORY, Kept()
    if (directory / META).exists():
        tokenizer = load_tokenizer(directory)
        _try(tokenizer, config, sources, directory, kept, progress)
        return tokenizer
    if config.tokenizer.kind in ("bpe", "unigram"):
        progress.say(
            f"{config.name}: training a {config.tokenizer.kind} tokenizer of {config.tokenizer.vocab_size} pieces "
            f"on up to {config.tokenizer.sample_bytes / 1e6:g} MB"
        )
    whole = config.tokenizer.kind == "word"  # a closed vocabulary is that of the whole training text
    try:
        sampled = kept.passing(sample(config, sources, None if whole else config.tokenizer.sample_bytes))
        tokenizer = make_tokenizer(config.tokenizer, sampled, directory)
        progress.say(f"{config.name}: tokenizer {tokenizer.hash}, {tokenizer.vocab_size} pieces")
        _try(tokenizer, config, sources, directory, kept, progress)
    except UserError:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return tokenizer


def _try(
    tokenizer: Tokenizer, config: DataConfig, sources: list[Source], directory: Path, kept: Kept, progress: Progress
) -> None:
    """Measure once how faithfully the tokenizer gives the sources back, on what was kept or on a sample of its own."""
    if config.tokenizer.kind in ("bytes", "word") or (directory / round_trip.FILE).exists():
        return
    if not kept.by_source():
        for _ in kept.passing(sample(config, sources, TRIED_BYTES)):
            pass
    found = {source: round_trip.measure(tokenizer, texts) for source, texts in kept.by_source().items()}
    round_trip.save(directory, found)
    for source, measured in found.items():
        if measured.altered:
            progress.say(f"warning: {measured.sentence(source)}; what is lost cannot be learned")


def sample(config: DataConfig, sources: list[Source], sample_bytes: int | None) -> Iterator[tuple[str, int, str]]:
    """Yield training documents of all sources by their weights, from parts spread evenly, up to `sample_bytes`.

    Each comes as (source, part, text); the last of a part may be cut off. None means all of every part.
    """
    rule = SplitRule(config.held_out_fraction)
    weights = [source.weight or 1.0 for source in config.sources]
    for source, weight in zip(sources, weights, strict=True):
        num_parts = source.num_parts if sample_bytes is None else min(source.num_parts, SAMPLED_PARTS)
        share = weight / sum(weights) / num_parts
        budget = sys.maxsize if sample_bytes is None else int(sample_bytes * share)
        for k in range(num_parts):
            left = budget
            cap = source.part_budget()
            part = k * source.num_parts // num_parts
            for text in source.documents(part, cap):
                raw = text.encode("utf-8", errors="replace")
                if rule(raw) != TRAIN:
                    continue
                yield source.config.tag, part, raw[:left].decode(errors="ignore")
                left -= len(raw)
                if left <= 0:
                    break
