"""A dilated causal convolution, as in temporal convolutional networks (Bai et al. 2018, arXiv 1803.01271, section 3).

Shapes: B batch, T tokens, D d_model, k kernel width, C channels of this rank.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.common.window import causal_window
from trainer.models.interface import Context, LayerState
from trainer.models.mixers.temporal_conv.cost import TemporalConvOptions
from trainer.models.transformer.config import TransformerConfig


class TemporalConv(nn.Module):
    """out(relu(conv(x))), where a convolution sees k inputs that lie 2^layer tokens apart, beginning again by cycles.

    The convolution is one matrix (C, k D), the taps of the oldest input first. Norm and residual sum are the block's.
    """

    def __init__(self, config: TransformerConfig, options: TemporalConvOptions, layer: int) -> None:
        super().__init__()
        D = config.d_model
        self.kernel, self.dilation = options.kernel, options.dilation(layer)
        self.conv = nn.Linear(options.kernel * D, D, bias=config.bias)
        self.out = nn.Linear(D, D, bias=config.bias)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        window = causal_window(x, self.kernel, context.documents, state, dilation=self.dilation)
        mixed: Tensor = self.out(F.relu(self.conv(window.flatten(2))))
        return mixed
