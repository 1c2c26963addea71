"""What attention sees of the tokens before: masks of documents and windows, and ALiBi's bias by distance.

Shapes: B batch, H heads, T tokens, S cached tokens before these.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Sight(NamedTuple):
    """Which keys a query sees, and how it weighs their distance."""

    documents: Tensor | None = None  # (B, S + T): tokens see only their own document
    window: int | None = None  # the last keys that a token sees, its own among them; None: all
    slopes: tuple[float, ...] = ()  # ALiBi's, one a query head; none without it
    made: dict[Any, Any] | None = None  # masks and the like of this pass, which all layers share

    def share(self, place: int, ranks: int) -> Sight:
        """Return what the heads of one of so many ranks see."""
        held = len(self.slopes) // ranks
        return self._replace(slopes=self.slopes[place * held : (place + 1) * held])

    def limited(self, total: int) -> bool:
        """Whether a query sees anything else than all keys before it."""
        return self.documents is not None or bool(self.slopes) or (self.window is not None and self.window < total)

    def mask(self, query: Tensor, total: int) -> Tensor:
        """Return what torch's attention takes for queries (B, H, T, K) over `total` keys, the last T their own.

        A boolean (B or 1, 1, T, S + T), or with ALiBi a bias (B or 1, H, T, S + T) of the query's type.
        """
        key = (query.shape[2], total, self.window, self.slopes, query.dtype)
        if self.made is None or key not in self.made:
            mask = self._mask(query, total)
            if self.made is None:
                return mask
            self.made[key] = mask
        shared: Tensor = self.made[key]
        return shared

    def bias_by_distance(self, query: Tensor, total: int) -> Tensor:
        """Return what is added to scores of queries (B, H, T, K) in reverse order: (1, 1 or H, T, S) for S keys in all.

        The last T of them are the queries' own. All T x S are views of T + S - 1 values, for window and ALiBi depend on
        the distance alone; in reverse since torch has no negative strides. Documents are left out.
        """
        T = query.shape[2]
        distance = torch.arange(total - 1, -T, -1, device=query.device)  # from the last query to the first key on
        outside = (distance < 0) | (distance >= (self.window or total))
        slopes = torch.tensor(self.slopes or (0.0,), device=query.device)
        bias = (-slopes[:, None] * distance).masked_fill(outside, -math.inf).to(query.dtype)
        return bias.as_strided((1, len(bias), T, total), (0, bias.shape[1], 1, 1))

    def runs(self) -> Tensor | None:
        """Return documents (B, T) numbered in their order, from 0 on in each sequence."""
        if self.documents is None:
            return None
        begins = self.documents[:, 1:] != self.documents[:, :-1]
        return torch.nn.functional.pad(begins.cumsum(1, dtype=torch.int32), (1, 0))

    def lengths(self) -> list[int]:
        """Return the tokens of each document of the batch, row by row. Waits for the device that documents are on."""
        if self.made is not None and "lengths" in self.made:
            lengths: list[int] = self.made["lengths"]
            return lengths
        assert self.documents is not None
        first = torch.ones_like(self.documents, dtype=torch.bool)
        first[:, 1:] = self.documents[:, 1:] != self.documents[:, :-1]
        starts = first.flatten().nonzero().flatten().tolist()
        lengths = [end - start for start, end in zip(starts, [*starts[1:], first.numel()], strict=True)]
        if self.made is not None:
            self.made["lengths"] = lengths
        return lengths

    def _mask(self, query: Tensor, total: int) -> Tensor:
        T = query.shape[2]
        places = torch.arange(total, device=query.device)
        distance = places[total - T :, None] - places  # (T, S + T)
        seen = distance >= 0
        if self.window is not None:
            seen = seen & (distance < self.window)
        seen = seen[None, None]
        if self.documents is not None:
            seen = seen & (self.documents[:, None, total - T :, None] == self.documents[:, None, None, :])
        if not self.slopes:
            return seen
        slopes = torch.tensor(self.slopes, device=query.device, dtype=torch.float32)
        bias = (-slopes[:, None, None] * distance)[None]
        return bias.masked_fill(~seen, -math.inf).to(query.dtype)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Return the slope of each head (Press et al. 2022, arXiv 2108.12409): 2^(-8/n), 2^(-16/n), ... for n heads.

    Between powers of two, the rest are every second slope of the next one, as in the authors' code.
    """
    whole = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (place + 1) / whole) for place in range(whole)]
    return tuple(slopes + [2 ** (-4 * (2 * place + 1) / whole) for place in range(heads - whole)])
