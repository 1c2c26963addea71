"""Dropout of whole sequences and of whole words. All draw from torch's generator, which the engine seeds by the step.

Shapes: B batch, T tokens, D width, V vocabulary rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SequenceDropout(nn.Dropout):
    """Variational or "locked" dropout (Gal and Ghahramani 2016): all tokens of a sequence lose the same values."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        if not self.training or self.p == 0:
            return x
        return x * F.dropout(torch.ones_like(x[:, :1]), self.p)


def dropout_of(share: float, *, variational: bool) -> nn.Dropout:
    """Return a module that drops this share of values in training."""
    return SequenceDropout(share) if variational else nn.Dropout(share)


class WordDropout(nn.Module):
    """Embedding dropout (Gal and Ghahramani 2016, section 4.2): some words are 0 wherever they stand in the batch."""

    def __init__(self, share: float, vocab_rows: int) -> None:
        super().__init__()
        self.share, self.vocab_rows = share, vocab_rows

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """Return (B, T, D) for what is embedded, x (B, T, D), of words (B, T)."""
        if not self.training or self.share == 0:
            return x
        kept = F.dropout(torch.ones(self.vocab_rows, device=x.device, dtype=x.dtype), self.share)
        return x * kept[words][..., None]
