"""A causal convolution of each channel by itself, as before many recurrences.

Shapes: B batch, T tokens, D channels, k kernel width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.models.common.window import causal_window
from trainer.models.interface import LayerState


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, documents: Tensor | None, state: LayerState | None
) -> Tensor:
    """Return (B, T, D) for x (B, T, D), weight (D, k), the tap of the oldest input first, and bias (D)."""
    window = causal_window(x, weight.shape[1], documents, state)
    y = window[:, :, 0] * weight[:, 0]
    for tap in range(1, weight.shape[1]):
        y = torch.addcmul(y, window[:, :, tap], weight[:, tap])
    return y if bias is None else y + bias
