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
    made: dict[Any, Tensor] | None = None  # masks of this pass, which all layers share

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
        return self.made[key]

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
