"""Sequences that are worked on in chunks, and where documents begin in them.

Shapes: B batch, T tokens, M chunks, C tokens of a chunk, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Borders:
    """Which tokens of a chunk belong together; all masks are True where they do."""

    pairs: Tensor  # (B, M, C, C): both in one document
    before: Tensor  # (B, M, C): in the document in which the chunk before ended
    after: Tensor  # (B, M, C): in the document in which this chunk ends
    through: Tensor  # (B, M): the chunk ends in the document in which the one before ended


def borders(first: Tensor, chunks: int) -> Borders:
    """Return the borders of documents whose first tokens are given, (B, T); T is a multiple of `chunks`."""
    number = first.int().cumsum(1).view(first.shape[0], chunks, -1)
    last = number[:, :, -1]
    entering = torch.cat([torch.zeros_like(last[:, :1]), last[:, :-1]], dim=1)
    return Borders(
        pairs=number[..., :, None] == number[..., None, :],
        before=number == entering[..., None],
        after=number == last[..., None],
        through=last == entering,
    )


def in_chunks(x: Tensor, chunks: int) -> Tensor:
    """Return (B, M, H, C, ...) for x (B, M C, H, ...)."""
    chunked: Tensor = x.unflatten(1, (chunks, -1)).transpose(2, 3)
    return chunked


def each_chunk(*parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield each chunk of the parts (B, M, ...) in turn, (B, ...).

    The gradient of `x[:, m]` is as large as x, so that a loop over them would cost M^2; unbinding costs M.
    """
    return zip(*(part.unbind(1) for part in parts), strict=True)
