"""Gated DeltaNet (Yang et al. 2025, arXiv 2412.06464, section 3.4).

Shapes: B batch, T tokens, D d_model, H heads, K = D / H their width, k kernel width. On tensor ranks H is this rank's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.common.delta import delta_rule
from trainer.models.common.depthwise import depthwise_conv
from trainer.models.common.precision import exact
from trainer.models.common.window import begins
from trainer.models.interface import Context, LayerState
from trainer.models.mixers.gated_delta.cost import GatedDeltaOptions
from trainer.models.transformer.config import TransformerConfig


class GatedDelta(nn.Module):
    """out(norm(y) * silu(gate)), where y reads a memory by the gated delta rule.

    Queries, keys and values are convolved first; queries and keys have length 1. Each head has a decay and a strength.
    """

    def __init__(self, config: TransformerConfig, options: GatedDeltaOptions, layer: int) -> None:
        super().__init__()
        D, H = config.d_model, config.heads
        self.head_dim, self.epsilon = D // H, config.epsilon
        self.qkv = nn.Linear(D, 3 * D, bias=config.bias)
        self.conv = nn.Parameter(torch.empty(3 * D, options.kernel))
        self.strength = nn.Linear(D, H, bias=config.bias)
        self.dt = nn.Linear(D, H, bias=config.bias)
        self.dt_bias, self.A_log = nn.Parameter(torch.empty(H)), nn.Parameter(torch.empty(H))
        self.gate = nn.Linear(D, D, bias=config.bias)
        self.scale = nn.Parameter(torch.empty(D // H))
        self.out = nn.Linear(D, D, bias=config.bias)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        first = begins(context.documents, state)
        convolved = F.silu(depthwise_conv(self.qkv(x), self.conv, None, context.documents, state))
        query, key, value = (exact(part.unflatten(-1, (-1, self.head_dim))) for part in convolved.chunk(3, dim=-1))
        dt = F.softplus(exact(self.dt(x)) + exact(self.dt_bias))
        y, last = delta_rule(
            F.normalize(query, dim=-1, eps=1e-6) * self.head_dim**-0.5,
            F.normalize(key, dim=-1, eps=1e-6),
            value,
            exact(self.strength(x)).sigmoid(),
            -dt * exact(self.A_log).exp(),
            first,
            None if not state or "S" not in state else state["S"],
        )
        if state is not None:
            state["S"] = last
        normed = F.rms_norm(y, (self.head_dim,), exact(self.scale), self.epsilon).flatten(2).to(x.dtype)
        mixed: Tensor = self.out(normed * F.silu(self.gate(x)))
        return mixed
