"""A causal convolution with gated linear units (Dauphin et al. 2017, arXiv 1612.08083).

Shapes: B batch, T tokens, D d_model, k kernel width, C channels of this rank.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.common.window import causal_window
from trainer.models.interface import Context, LayerState
from trainer.models.mixers.gated_conv.cost import GatedConvOptions
from trainer.models.transformer.config import TransformerConfig


class GatedConv(nn.Module):
    """out(values * sigmoid(gates)), where values and gates are products of the last k inputs.

    The convolution is one matrix (2C, k D), the taps of the oldest input first.
    """

    def __init__(self, config: TransformerConfig, options: GatedConvOptions, layer: int) -> None:
        super().__init__()
        D = config.d_model
        self.kernel = options.kernel
        self.conv = nn.Linear(options.kernel * D, 2 * D, bias=config.bias)
        self.out = nn.Linear(D, D, bias=config.bias)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        window = causal_window(x, self.kernel, context.documents, state)
        mixed: Tensor = self.out(F.glu(self.conv(window.flatten(2))))
        return mixed
