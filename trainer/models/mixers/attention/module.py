"""Causal self-attention: positions, grouped-query heads, QK-norm, documents, windows, a state of tokens or segments.

Shapes: B batch, T tokens, D d_model, H query heads, G key/value heads, K head width, S cached tokens before these.
Head counts are read off the projections, so the same module works where tensor ranks hold a share of the heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.common.norm import make_norm
from trainer.models.common.rotary import rotate
from trainer.models.common.sight import Sight, alibi_slopes
from trainer.models.interface import Context, LayerState
from trainer.models.mixers.attention.attend import causal_attention, masked_attention
from trainer.models.mixers.attention.cache import append
from trainer.models.mixers.attention.cost import AttentionOptions
from trainer.models.mixers.attention.relative import RelativePositions
from trainer.models.mixers.attention.segments import with_memory
from trainer.models.transformer.config import TransformerConfig


def remember(state: LayerState, sight: Sight, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Sight]:
    """Append new keys and values (B, G, T, K), and documents (B, T), to those of the tokens before; return all.

    The state keeps what the next token may still see.
    """
    documents = sight.documents
    if state:
        key, value = append(state["keys"], key), append(state["values"], value)
        if documents is not None:
            documents = torch.cat([state["documents"], documents], dim=1)
    first = 0 if sight.window is None else max(0, key.shape[2] - sight.window + 1)
    state["keys"], state["values"] = key[:, :, first:], value[:, :, first:]
    if documents is not None:
        state["documents"] = documents[:, first:]
    return key, value, sight._replace(documents=documents)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) with grouped-query heads (Ainslie et al. 2023)."""

    def __init__(self, config: TransformerConfig, options: AttentionOptions, layer: int) -> None:
        super().__init__()
        D, K = config.d_model, config.head_dim
        self.head_dim, self.dropout, self.query_scale = K, config.dropout, config.query_scale
        self.window = options.window
        self.slopes = alibi_slopes(config.heads) if config.position == "alibi" else ()
        self.query_share = config.heads // config.kv_heads
        if config.fused_qkv:
            self.qkv = nn.Linear(D, (config.heads + 2 * config.kv_heads) * K, bias=config.bias)
        else:
            self.q = nn.Linear(D, config.heads * K, bias=config.bias)
            self.k = nn.Linear(D, config.kv_heads * K, bias=config.bias)
            self.v = nn.Linear(D, config.kv_heads * K, bias=config.bias)
        self.q_norm = make_norm(config, K) if config.qk_norm else None
        self.k_norm = make_norm(config, K) if config.qk_norm else None
        self.out = nn.Linear(config.heads * K, D, bias=config.bias)
        self.relative = RelativePositions(config) if config.position == "relative" else None
        self.attend, self.attend_where = causal_attention, masked_attention

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

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D). The context's angles rotate queries and keys, see `rotary_angles`."""
        B, T = x.shape[:2]
        documents, read = context.documents, None
        if state is not None and context.memory is not None:
            x, documents, read = with_memory(x, documents, context.memory, state)
        query, key, value = self._project(x)
        query = query[:, :, -T:]  # a memory has none
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if context.angles is not None:
            cos, sin = context.angles
            query, key = rotate(query, (cos[-T:], sin[-T:])), rotate(key, context.angles)
        if self.query_scale != 1:
            query = query * self.query_scale
        sight = Sight(documents, self.window, self.slopes, context.made)
        if state is not None and read is None:
            key, value, sight = remember(state, sight, key, value)
        dropout = self.dropout if self.training else 0.0
        if read is None and self.relative is None:
            mixed = self.attend(query, key, value, sight, dropout)
        else:
            mask = sight.mask(query, key.shape[2])
            query, mask = self._biased(query, key.shape[2], mask if read is None else mask & read)
            mixed = self.attend_where(query, key, value, mask, dropout)
        projected: Tensor = self.out(mixed.transpose(1, 2).reshape(B, T, -1))
        return projected

    def _biased(self, query: Tensor, total: int, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and what is added to their scores, where positions are relative; else both as they are."""
        if self.relative is None:
            return query, mask
        query, bias = self.relative(query, total)
        return query, bias.masked_fill(~mask, -torch.inf)
