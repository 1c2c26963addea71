"""Long short-term memory (Hochreiter and Schmidhuber 1997; forget gates of Gers et al. 2000), by torch's kernels.

Shapes: B batch, T tokens, D width of input and hidden state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.config.choice import NoOptions
from trainer.models.common.lstm import lstm
from trainer.models.interface import Context, LayerState
from trainer.models.transformer.config import TransformerConfig


class Lstm(nn.Module):
    """out(h) with the hidden states h of an LSTM. Gates lie in torch's order: input, forget, cell, output."""

    def __init__(self, config: TransformerConfig, options: NoOptions, layer: int) -> None:
        super().__init__()
        D = config.d_model
        self.input = nn.Parameter(torch.empty(4 * D, D))
        self.recurrent = nn.Parameter(torch.empty(4 * D, D))
        self.bias = nn.Parameter(torch.empty(4 * D))
        self.out = nn.Linear(D, D, bias=config.bias)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        mixed: Tensor = self.out(lstm(x, (self.input, self.recurrent, self.bias), context.documents, state))
        return mixed
