"""What the losses of a whole stream come to: means, perplexities by token and by word, loss by position."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

LARGEST = 700.0  # of a loss whose exponential is still a float


@dataclass(frozen=True)
class PositionBucket:
    """Tokens before whose input at least `first` and at most `last` tokens were read."""

    first: int
    last: int
    tokens: int
    loss: float  # nats
    loss_sem: float | None  # standard error of the mean over tokens


@dataclass(frozen=True)
class Scored:
    """A scored set. Losses in nats; a word is what white space separates, or the end of a line."""

    tokens: int
    words: int
    text_bytes: int | None
    loss: float  # a token
    perplexity: float
    word_perplexity: float
    bits_per_byte: float | None
    by_position: list[PositionBucket]

    def values(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return asdict(self)


def summarise(parts: Iterable[tuple[Tensor, Tensor]], words: int, text_bytes: int | None) -> Scored:
    """Return what losses (n) and the numbers of tokens read before (n) come to, given block by block."""
    sums = torch.zeros(3, 64, dtype=torch.float64)  # tokens, losses and their squares, by bucket
    for losses, before in parts:
        values = torch.stack([torch.ones_like(losses), losses, losses.square()])
        sums.index_add_(1, bucket_of(before), values)
    tokens, total = int(sums[0].sum()), float(sums[1].sum())
    return Scored(
        tokens=tokens,
        words=words,
        text_bytes=text_bytes,
        loss=total / tokens,
        perplexity=math.exp(min(total / tokens, LARGEST)),
        word_perplexity=math.exp(min(total / words, LARGEST)),
        bits_per_byte=total / math.log(2) / text_bytes if text_bytes else None,
        by_position=[_bucket(number, *sums[:, number].tolist()) for number in range(64) if sums[0, number]],
    )


def bucket_of(before: Tensor) -> Tensor:
    """Return the bucket of each number of tokens: 0, 1, 2-3, 4-7, 8-15 and so on."""
    return torch.frexp(before.double()).exponent.long()


def _bucket(number: int, tokens: float, total: float, squares: float) -> PositionBucket:
    mean = total / tokens
    variance = max(squares / tokens - mean**2, 0.0) * tokens / (tokens - 1) if tokens > 1 else None
    first = 2 ** (number - 1) if number else 0
    last = 2**number - 1
    sem = None if variance is None else math.sqrt(variance / tokens)
    return PositionBucket(first, last, round(tokens), mean, sem)
