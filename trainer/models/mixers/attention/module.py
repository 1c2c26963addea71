"""Causal self-attention: positions, grouped-query heads, QK-norm, document masks, a state for decoding or segments.

Shapes: B batch, T tokens, D d_model, H query heads, G key/value heads, K head width, S cached tokens before these.
Head counts are read off the projections, so the same module works where tensor ranks hold a share of the heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.choice import NoOptions
from trainer.models.common.norm import make_norm
from trainer.models.common.rotary import rotate
from trainer.models.interface import Context, LayerState
from trainer.models.mixers.attention.relative import RelativePositions
from trainer.models.mixers.attention.segments import visible, with_memory
from trainer.models.transformer.config import TransformerConfig


def remember(state: LayerState, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Append the new keys and values (B, G, T, K) to those of the tokens before, and return all of them."""
    if state:
        key, value = torch.cat([state["keys"], key], dim=2), torch.cat([state["values"], value], dim=2)
    state["keys"], state["values"] = key, value
    return key, value


def remember_documents(state: LayerState, documents: Tensor | None) -> Tensor | None:
    """Append the documents (B, T) of new tokens to those of the tokens before, and return all of them."""
    if documents is None:
        return None
    if "documents" in state:
        documents = torch.cat([state["documents"], documents], dim=1)
    state["documents"] = documents
    return documents


def causal_attention(query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, dropout: float) -> Tensor:
    """Attend from (B, H, T, K) to (B, G, S + T, K) through torch's fused kernels; returns (B, H, T, K).

    `documents` (B, S + T) names the document of each token; tokens see only their own document.
    """
    T, total = query.shape[2], key.shape[2]
    grouped = query.shape[1] != key.shape[1]
    if documents is None and total in (T, 1):
        return F.scaled_dot_product_attention(query, key, value, is_causal=T > 1, dropout_p=dropout, enable_gqa=grouped)
    if documents is None and T == 1:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, enable_gqa=grouped)
    mask = torch.ones(T, total, dtype=torch.bool, device=query.device).tril(diagonal=total - T)
    if documents is not None:
        mask = mask & (documents[:, None, total - T :, None] == documents[:, None, None, :])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, enable_gqa=grouped)


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend from (B, H, T, K) to (B, G, S, K) where a mask (B, 1, T, S) is True, or with it added to the scores."""
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, enable_gqa=grouped)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) with grouped-query heads (Ainslie et al. 2023)."""

    def __init__(self, config: TransformerConfig, options: NoOptions, layer: int) -> None:
        super().__init__()
        D, K = config.d_model, config.head_dim
        self.head_dim, self.dropout = K, config.dropout
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
        mask = None
        if state is not None and context.memory is not None:
            x, mask = with_memory(x, context.documents, context.memory, state)
        query, key, value = self._project(x)
        query = query[:, :, -T:]  # a memory has none
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if context.angles is not None:
            cos, sin = context.angles
            query, key = rotate(query, (cos[-T:], sin[-T:])), rotate(key, context.angles)
        documents, dropout = context.documents, self.dropout if self.training else 0.0
        if state is not None and mask is None:
            key, value = remember(state, key, value)
            documents = remember_documents(state, documents)
        if mask is None and self.relative is None:
            mixed = self.attend(query, key, value, documents, dropout)
        else:
            mask = visible(T, key.shape[2], documents, x.device) if mask is None else mask
            query, mask = self._biased(query, key.shape[2], mask)
            mixed = self.attend_where(query, key, value, mask, dropout)
        projected: Tensor = self.out(mixed.transpose(1, 2).reshape(B, T, -1))
        return projected

    def _biased(self, query: Tensor, total: int, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and what is added to their scores, where positions are relative; else both as they are."""
        if self.relative is None:
            return query, mask
        query, bias = self.relative(query, total)
        return query, bias.masked_fill(~mask, -torch.inf)
