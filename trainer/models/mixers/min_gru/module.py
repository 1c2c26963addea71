"""minGRU (Feng et al. 2024, "Were RNNs All We Needed?", arXiv 2410.01201, section 3.1).

Shapes: B batch, T tokens, D d_model, C channels of this rank.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.config.choice import NoOptions
from trainer.models.common.scan import continued_scan
from trainer.models.interface import Context, LayerState
from trainer.models.transformer.config import TransformerConfig


class MinGru(nn.Module):
    """out(h) with h[t] = (1 - z[t]) h[t-1] + z[t] c[t], where z = sigmoid(gate) and c are linear in the input.

    Appendix B of the paper replaces c by something positive, about 1/2 for small c, so that its scan can work with
    logarithms. Ours needs none, and without that offset in every channel the layer learns much faster.
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
        h = continued_scan(decay, update * candidate, context.documents, state)
        mixed: Tensor = self.out(h.to(x.dtype))
        return mixed
