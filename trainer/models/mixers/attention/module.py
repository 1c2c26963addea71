"""Causal self-attention: rotary positions, grouped-query heads, QK-norm, document masks, a state for decoding.

Shapes: B batch, T tokens, D d_model, H query heads, G key/value heads, K head width, S cached tokens before these.
Head counts are read off the projections, so the same module works where tensor ranks hold a share of the heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.common.norm import make_norm
from trainer.models.interface import LayerState
from trainer.models.mixers.attention.cache import append
from trainer.models.transformer.config import TransformerConfig


def remember(state: LayerState, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Append the new keys and values (B, G, T, K) to those of the tokens before, and return all of them."""
    for name, new in (("keys", key), ("values", value)):
        state[name] = append(state[name], new) if name in state else new
    return state["keys"], state["values"]


def rotary_angles(positions: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (T, K/2) of the rotary embedding (Su et al. 2021, arXiv 2104.09864)."""
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = torch.outer(positions.float(), base**-exponent)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (i, i + K/2) of x (B, H, T, K) by the angles (T, K/2)."""
    cos, sin = angles[0].to(x.dtype), angles[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, dropout: float) -> Tensor:
    """Attend from (B, H, T, K) to (B, G, S + T, K) through torch's fused kernels; returns (B, H, T, K).

    `documents` (B, T) names the document of each token; tokens see only their own document.
    """
    T, total = query.shape[2], key.shape[2]
    grouped = query.shape[1] != key.shape[1]
    if documents is None and total in (T, 1):
        return F.scaled_dot_product_attention(query, key, value, is_causal=T > 1, dropout_p=dropout, enable_gqa=grouped)
    if documents is None and T == 1:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, enable_gqa=grouped)
    mask = torch.ones(T, total, dtype=torch.bool, device=query.device).tril(diagonal=total - T)
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, enable_gqa=grouped)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) with grouped-query heads (Ainslie et al. 2023)."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        D, K = config.d_model, config.head_dim
        self.head_dim, self.dropout = K, config.dropout
        self.query_share = config.n_heads // config.kv_heads
        if config.fused_qkv:
            self.qkv = nn.Linear(D, (config.n_heads + 2 * config.kv_heads) * K, bias=config.bias)
        else:
            self.q = nn.Linear(D, config.n_heads * K, bias=config.bias)
            self.k = nn.Linear(D, config.kv_heads * K, bias=config.bias)
            self.v = nn.Linear(D, config.kv_heads * K, bias=config.bias)
        self.q_norm = make_norm(config, K) if config.qk_norm else None
        self.k_norm = make_norm(config, K) if config.qk_norm else None
        self.out = nn.Linear(config.n_heads * K, D, bias=config.bias)
        self.attend = causal_attention

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, K), keys and values (B, G, T, K)."""
        if hasattr(self, "qkv"):
            fused = self.qkv(x)
            kv_width = fused.shape[-1] // (self.query_share + 2)
            parts = fused.split([kv_width * self.query_share, kv_width, kv_width], dim=-1)
        else:
            parts = (self.q(x), self.k(x), self.v(x))
        B, T = x.shape[:2]
        query, key, value = (part.view(B, T, -1, self.head_dim).transpose(1, 2) for part in parts)
        return query, key, value

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        documents: Tensor | None = None,
        state: LayerState | None = None,
    ) -> Tensor:
        """Return (B, T, D) for x (B, T, D); `angles` rotate queries and keys, see `rotary_angles`."""
        query, key, value = self._project(x)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        if state is not None:
            key, value = remember(state, key, value)
        mixed = self.attend(query, key, value, documents, self.dropout if self.training else 0.0)
        B, T = x.shape[:2]
        projected: Tensor = self.out(mixed.transpose(1, 2).reshape(B, T, -1))
        return projected
