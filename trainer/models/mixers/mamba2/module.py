"""Mamba-2 (Dao and Gu 2024, arXiv 2405.21060, section 7), with one group of B and C.

Shapes: B batch, T tokens, D d_model, E inner width, H heads, P = E / H their width, N state. On tensor ranks E and H
are this rank's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.common.chunked import chunked_recurrence
from trainer.models.common.depthwise import depthwise_conv
from trainer.models.common.precision import exact
from trainer.models.common.window import begins
from trainer.models.interface import Context, LayerState
from trainer.models.mixers.mamba2.cost import Mamba2Options
from trainer.models.transformer.config import TransformerConfig


class Mamba2(nn.Module):
    """out(norm(y * silu(z))) with S[t] = exp(dt A) S[t-1] + dt B x', y = C S + skip x; x, B and C are convolved first.

    Parameters are in several matrices, where the reference has one, so that tensor ranks can share what belongs to
    heads. B and C are shared by all heads, and each rank makes all of them.
    """

    def __init__(self, config: TransformerConfig, options: Mamba2Options, layer: int) -> None:
        super().__init__()
        D, E, H, N, k = config.d_model, options.expand * config.d_model, config.heads, options.state, options.kernel
        self.head_dim, self.epsilon = E // H, config.epsilon
        self.group = E // (options.norm_groups or H)
        self.into = nn.Linear(D, 2 * E, bias=config.bias)  # z and x
        self.bc = nn.Linear(D, 2 * N, bias=config.bias)
        self.dt = nn.Linear(D, H, bias=config.bias)
        self.conv_x, self.conv_x_bias = nn.Parameter(torch.empty(E, k)), nn.Parameter(torch.empty(E))
        self.conv_bc, self.conv_bc_bias = nn.Parameter(torch.empty(2 * N, k)), nn.Parameter(torch.empty(2 * N))
        self.dt_bias, self.A_log, self.skip = (nn.Parameter(torch.empty(H)) for _ in range(3))
        self.scale = nn.Parameter(torch.empty(E))
        self.out = nn.Linear(E, D, bias=config.bias)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        first = begins(context.documents, state)
        z, inner = self.into(x).chunk(2, dim=-1)
        both = torch.cat([inner, self.bc(x)], dim=-1)
        taps, bias = torch.cat([self.conv_x, self.conv_bc]), torch.cat([self.conv_x_bias, self.conv_bc_bias])
        convolved = F.silu(depthwise_conv(both, taps, bias, context.documents, state))
        N = self.conv_bc.shape[0] // 2
        inner, key, query = convolved.split([inner.shape[-1], N, N], dim=-1)
        heads = exact(inner.unflatten(-1, (-1, self.head_dim)))
        dt = F.softplus(exact(self.dt(x)) + exact(self.dt_bias))
        y, last = chunked_recurrence(
            exact(query[:, :, None]),
            exact(key[:, :, None]),
            heads * dt[..., None],
            -dt * exact(self.A_log).exp(),
            first,
            None if not state or "S" not in state else state["S"],
        )
        if state is not None:
            state["S"] = last
        y = torch.addcmul(y, heads, exact(self.skip)[:, None]).flatten(2).to(x.dtype)
        mixed: Tensor = self.out(self._norm(y * F.silu(z)))
        return mixed

    def _norm(self, y: Tensor) -> Tensor:
        """Return y (B, T, E) normed by groups of channels (RMSNorm)."""
        groups = y.unflatten(-1, (-1, self.group))
        return F.rms_norm(groups, (self.group,), None, self.epsilon).flatten(-2) * self.scale
