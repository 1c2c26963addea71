"""Attention of a GPU to documents, windows and distances: FlexAttention, whose kernel skips blocks that nobody sees.

Dong et al. 2024, arXiv 2412.05496. Torch makes a block mask by evaluating all T x T pairs. Here it is made from the
documents and places at which blocks begin and end, which takes (T / 128)^2 values and waits for nothing on the device.

Shapes: B batch, T tokens, H query heads, G key/value heads, K head width, n blocks of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from trainer.models.common.sight import Sight

BLOCK = 128  # tokens, torch's own default
Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def flexible_attention(query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Tensor:
    """Attend from (B, H, T, K) to (B, G, T, K) where `sight` allows; returns (B, H, T, K). Compiled on a GPU."""
    T, made = query.shape[2], {} if sight.made is None else sight.made
    place = ("blocks", T, sight.window)
    if place not in made:
        made[place] = block_mask(sight, T, query.device)
    # A compiled model compiles it as a part of itself. On a processor, which tests use, all pairs are evaluated.
    apart = query.is_cuda and not torch.compiler.is_compiling()
    attend = _compiled() if apart else cast(Callable[..., Any], flex_attention)
    grouped = query.shape[1] != key.shape[1]
    score = _alibi(sight.slopes, query.device) if sight.slopes else None
    mixed: Tensor = attend(query, key, value, score_mod=score, block_mask=made[place], enable_gqa=grouped)
    return mixed


def block_mask(sight: Sight, tokens: int, device: torch.device) -> BlockMask:
    """Return which blocks of keys each block of queries sees, in part or as a whole, and the rule inside of a block."""
    first = torch.arange(0, tokens, BLOCK, device=device)
    last = (first + BLOCK - 1).clamp_max(tokens - 1)
    number = torch.arange(len(first), device=device)
    some = number[:, None] >= number
    every = (number[:, None] > number) & (first + BLOCK <= tokens)[:, None]
    window = sight.window
    if window is not None:
        some = some & (first[:, None] - last < window)
        every = every & (last[:, None] - first < window)
    some, every = some[None, None], every[None, None]
    documents = sight.runs()
    if documents is not None:
        begin, end = documents[:, first], documents[:, last]
        some = some & (begin[:, None, :, None] <= end[:, None, None, :])
        every = every & (end[:, None, :, None] == begin[:, None, None, :])

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= key
        if window is not None:
            seen = seen & (query - key < window)
        if documents is not None:
            seen = seen & (documents[b, query] == documents[b, key])
        return seen

    return BlockMask.from_kv_blocks(
        *_listed(some & ~every),
        *_listed(every),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(tokens, tokens),
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each block of queries how many blocks of keys there are, (B, 1, n), and which come first."""
    order = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.to(torch.int32)


@cache
def _alibi(slopes: tuple[float, ...], device: torch.device) -> Score:
    """Return ALiBi's bias as a function of scores: one for all layers and steps, for it copies to the device."""
    steep = torch.tensor(slopes, device=device)

    def biased(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score - steep[h] * (query - key)

    return biased


@cache
def _compiled() -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(flex_attention)
    return compiled
