"""How attention is computed: the kernel of torch that fits what a query sees.

| what a query sees | on a GPU | on a processor |
|---|---|---|
| all before it | SDPA, causal | SDPA, causal |
| its own document | FlexAttention | a causal call for each document |
| a window of w < T / 2 | FlexAttention | blocks of w, each with the one before |
| a wider window, ALiBi | FlexAttention | a bias by distance, of 2 T values |

None of these keeps T x T values. SDPA with a mask of T x S serves the rest: up to `FEW` tokens, tokens behind a state,
dropout (on a processor with ALiBi and wide windows alone), heads narrower than 16 and no triton on a GPU, and documents
in compiled code of a processor.

Shapes: B batch, T tokens, H query heads, G key/value heads, K head width, S keys: T and those of tokens before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.common.kernels import HAS_TRITON
from trainer.models.common.sight import Sight

FEW = 256  # tokens up to which a mask is as fast as anything else, on a processor too


def causal_attention(query: Tensor, key: Tensor, value: Tensor, sight: Sight, dropout: float) -> Tensor:
    """Attend from (B, H, T, K) to (B, G, S, K), where the last T keys are the queries' own; returns (B, H, T, K)."""
    T, total = query.shape[2], key.shape[2]
    if not sight.limited(total) and (total == T or T == 1):
        grouped, causal = query.shape[1] != key.shape[1], T > 1
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=causal, dropout_p=dropout, enable_gqa=grouped
        )
    if total != T or T <= FEW:
        return masked_attention(query, key, value, sight.mask(query, total), dropout)
    if dropout == 0 and _has_flex(query):
        from trainer.models.mixers.attention.flex import flexible_attention  # what it imports needs triton

        return flexible_attention(query, key, value, sight)
    if _can_be_read(sight.documents):
        return by_document(query, key, value, sight, dropout)
    if sight.documents is None and sight.window is not None and 2 * sight.window < T:
        return banded_attention(query, key, value, sight, dropout)
    if sight.documents is None and dropout == 0 and not query.is_cuda:
        return distant_attention(query, key, value, sight)
    return masked_attention(query, key, value, sight.mask(query, total), dropout)


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend from (B, H, T, K) to (B, G, S, K) where a mask (B, 1, T, S) is True, or with it added to the scores."""
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, enable_gqa=grouped)


def _has_flex(query: Tensor) -> bool:
    """Whether FlexAttention has kernels for queries (B, H, T, K): on a GPU, with triton, for no heads below 16."""
    return query.is_cuda and HAS_TRITON and query.shape[3] >= 16


def _can_be_read(documents: Tensor | None) -> bool:
    """Whether shapes may depend on documents: those of a processor, in code that is not compiled."""
    return documents is not None and documents.device.type == "cpu" and not torch.compiler.is_compiling()


def by_document(query: Tensor, key: Tensor, value: Tensor, sight: Sight, dropout: float) -> Tensor:
    """Attend in each document by itself: as many calls as there are documents, whose pairs are all that is computed."""
    B, _, T, _ = query.shape
    lengths, apart = sight.lengths(), sight._replace(documents=None, made=None)
    if len(lengths) == B:
        return causal_attention(query, key, value, apart, dropout)
    # One row of B T tokens is cut by one node of the graph, whose gradient is one concatenation.
    queries, keys, values = (
        x.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None].split(lengths, dim=2) for x in (query, key, value)
    )
    mixed = [causal_attention(*part, apart, dropout) for part in zip(queries, keys, values, strict=True)]
    found: Tensor = torch.cat([x.transpose(1, 2) for x in mixed], dim=1)[0].unflatten(0, (B, T))
    return found.transpose(1, 2)


def banded_attention(query: Tensor, key: Tensor, value: Tensor, sight: Sight, dropout: float) -> Tensor:
    """Attend within the window in blocks of its width, each to itself and to the one before: T w scores, not T T."""
    (B, _, T, _), w = query.shape, sight.window
    assert w is not None
    blocks = -(-T // w)
    alone = sight._replace(window=None, made=None)
    first = causal_attention(query[:, :, :w], key[:, :, :w], value[:, :, :w], alone, dropout)

    def cut(x: Tensor, size: int) -> Tensor:
        """(B, H, n w, K) to (B n, H, size, K), `w` further each, zeros at the end."""
        return F.pad(x, (0, 0, 0, blocks * w - T)).unfold(2, size, w).permute(0, 2, 1, 4, 3).flatten(0, 1)

    parts = cut(query[:, :, w:], w), cut(key, 2 * w), cut(value, 2 * w)
    if w <= FEW or dropout or query.is_cuda:
        rest = masked_attention(*parts, sight.mask(parts[0], 2 * w), dropout)
    else:
        rest = distant_attention(*parts, sight)
    by_block = rest.unflatten(0, (B, blocks - 1)).transpose(1, 2)
    return torch.cat([first, by_block.flatten(2, 3)], dim=2)[:, :, :T]


def distant_attention(query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Tensor:
    """Attend by distance alone, which is window and ALiBi; the last T keys are the queries' own. On a processor."""
    bias = sight.bias_by_distance(query, key.shape[2])
    return masked_attention(query.flip(2), key, value, bias, 0.0).flip(2)
