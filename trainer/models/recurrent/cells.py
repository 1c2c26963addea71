"""What a layer may be: an LSTM or a QRNN, with dropped weights.

Shapes: B batch, T tokens, I width of the input, H hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.common.lstm import lstm
from trainer.models.common.scan import continued_scan
from trainer.models.common.window import causal_window
from trainer.models.interface import Context, LayerState


class LstmCell(nn.Module):
    """The hidden states of an LSTM, some of whose recurrent weights are dropped for the whole batch (DropConnect)."""

    def __init__(self, inputs: int, hidden: int, weight_drop: float) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.empty(4 * hidden, inputs))
        self.recurrent = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.empty(4 * hidden))
        self.weight_drop = weight_drop

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, H) for x (B, T, I)."""
        recurrent = F.dropout(self.recurrent, self.weight_drop, self.training)
        return lstm(x, (self.input, recurrent, self.bias), context.documents, state)


class QrnnCell(nn.Module):
    """sigmoid(o) * c with c[t] = f[t] c[t-1] + (1 - f[t]) tanh(z[t]) (Bradbury et al. 2017, arXiv 1611.01576).

    z, f and o are one product of the last k inputs, the oldest first, some of whose weights are dropped for the batch.
    """

    def __init__(self, inputs: int, hidden: int, kernel: int, weight_drop: float) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.empty(3 * hidden, kernel * inputs))
        self.bias = nn.Parameter(torch.empty(3 * hidden))
        self.kernel, self.weight_drop = kernel, weight_drop

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, H) for x (B, T, I)."""
        window = causal_window(x, self.kernel, context.documents, state).flatten(2)
        weight = F.dropout(self.input, self.weight_drop, self.training)
        z, forget, output = F.linear(window, weight, self.bias).chunk(3, dim=-1)
        decay, proposed = forget.sigmoid(), z.tanh()
        c = continued_scan(decay, proposed - decay * proposed, context.documents, state).to(x.dtype)
        return output.sigmoid() * c
