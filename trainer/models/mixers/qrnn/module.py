"""A quasi-recurrent layer with forget and output gates (Bradbury et al. 2017, arXiv 1611.01576, section 2.1).

Shapes: B batch, T tokens, D d_model, k kernel width, C channels of this rank.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.models.common.scan import continued_scan
from trainer.models.common.window import causal_window
from trainer.models.interface import Context, LayerState
from trainer.models.mixers.qrnn.cost import QrnnOptions
from trainer.models.transformer.config import TransformerConfig


class Qrnn(nn.Module):
    """out(sigmoid(o) * c) with c[t] = f[t] c[t-1] + (1 - f[t]) tanh(z[t]); z, f and o see the last k inputs.

    The convolution is one matrix (3C, k D) for z, f and o, the taps of the oldest input first.
    """

    def __init__(self, config: TransformerConfig, options: QrnnOptions, layer: int) -> None:
        super().__init__()
        D = config.d_model
        self.kernel = options.kernel
        self.conv = nn.Linear(options.kernel * D, 3 * D, bias=config.bias)
        self.out = nn.Linear(D, D, bias=config.bias)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        window = causal_window(x, self.kernel, context.documents, state)
        z, forget, output = self.conv(window.flatten(2)).chunk(3, dim=-1)
        decay, proposed = forget.sigmoid(), z.tanh()
        c = continued_scan(decay, proposed - decay * proposed, context.documents, state).to(x.dtype)
        mixed: Tensor = self.out(output.sigmoid() * c)
        return mixed
