"""Embedding and head of every family without torch: counts and roles. `common/ends.py` makes them.

The head reads `head_width` values of each token. With `adaptive`, the words of both are in bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import TYPE_CHECKING

from trainer.models.initial import Normal
from trainer.models.roles import Role, linear

if TYPE_CHECKING:
    from trainer.config.model import ModelConfig


@dataclass(frozen=True)
class Ends:
    """Parameters of the embedding and, besides them, of the head, and what one token needs of the head."""

    embedding: int
    head: int
    head_flops: int  # of training
    logits: int


def count_ends(config: ModelConfig) -> Ends:
    """Count embedding and head of a model whose vocabulary is known.

    What a token costs in an adaptive head depends on its band. Counted is the mean if words follow Zipf's law, the
    frequency of the r-th being proportional to 1 / r.
    """
    D, W, rows = config.d_model, config.head_width, config.vocab_rows
    if config.adaptive is None:
        return Ends(rows * D, 0 if config.tied_embeddings else rows * W, 6 * rows * W, rows)
    embedding = rows * D
    if config.adaptive.input:
        embedding = sum(band.size * band.width + band.width * D for band in config.adaptive.bands(rows, D))
    first, *others = config.adaptive.bands(rows, W)
    logits = float(first.size + len(others))
    flops = 6 * logits * W
    for band in others:
        share = _harmonic(band.start, band.stop) / _harmonic(0, rows)
        logits += share * band.size
        flops += 6 * share * band.width * (W + band.size)
    head = len(others) * W
    if not config.tied_embeddings:
        head += first.size * W + sum(band.width * (W + band.size) for band in others)
    return Ends(embedding, head, round(flops), round(logits))


def _harmonic(start: int, stop: int) -> float:
    """Return the sum of 1 / r for r in (start, stop], by the midpoint rule after the first ten."""
    exact = sum(1 / r for r in range(start + 1, min(stop, 10) + 1))
    begin = max(start, 10)
    return exact + (log((stop + 0.5) / (begin + 0.5)) if stop > begin else 0.0)


def end_roles(config: ModelConfig, std: float) -> dict[str, Role]:
    """Return the roles of embedding and head. Whole tables begin with the given standard deviation.

    Bands begin as in Baevski and Auli's code: a word's values with one over the root of their number.
    """
    D, W = config.d_model, config.head_width
    roles = {
        "embed.weight": Role(Normal(std), "embedding", split="vocab"),
        "head.weight": Role(Normal(std), "head", split="vocab", fan_in=W),
    }
    if config.adaptive is None:
        return roles
    rows = config.vocab_size or 0
    found: dict[str, Role] = {}
    if config.adaptive.input:
        del roles["embed.weight"]
        for number, band in enumerate(config.adaptive.bands(rows, D)):
            found[f"embed.tables.{number}.weight"] = Role(Normal(1 / sqrt(band.width)), "embedding")
            found |= linear(f"embed.up.{number}", 1 / sqrt(D), band.width)
    for number, band in enumerate(config.adaptive.bands(rows, W)[1:]):
        found |= linear(f"head.down.{number}", 1 / sqrt(W), W)
        found[f"head.tails.{number}.weight"] = Role(Normal(1 / sqrt(band.width)), "head", fan_in=band.width)
    found["head.short.weight"] = Role(Normal(std), "head", fan_in=W)
    found["head.classes.weight"] = Role(Normal(std), "head", fan_in=W)
    del roles["head.weight"]
    return {**roles, **found}
