"""minGRU (Feng et al. 2024, "Were RNNs All We Needed?", arXiv 2410.01201, section 3.1 and appendix B).

Shapes: B batch, T tokens, D d_model, C channels of this rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.config.choice import NoOptions
from trainer.models.common.scan import continued_scan
from trainer.models.interface import Context, LayerState
from trainer.models.transformer.config import TransformerConfig


class MinGru(nn.Module):
    """out(h) with h[t] = (1 - z[t]) h[t-1] + z[t] g(c[t]), where z = sigmoid(gate) and c are linear in the input.

    g(c) is c + 1/2 for c >= 0 and sigmoid(c) below: positive, as the paper has it for stable training.
    """

    def __init__(self, config: TransformerConfig, options: NoOptions, layer: int) -> None:
        super().__init__()
        D = config.d_model
        self.into = nn.Linear(D, 2 * D, bias=config.bias)
        self.out = nn.Linear(D, D, bias=config.bias)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        gate, candidate = self.into(x).chunk(2, dim=-1)
        update, decay = gate.sigmoid(), (-gate).sigmoid()
        proposed = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
        h = continued_scan(decay, update * proposed, context.documents, state)
        mixed: Tensor = self.out(h.to(x.dtype))
        return mixed
