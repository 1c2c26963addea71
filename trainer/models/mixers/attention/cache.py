"""Keys and values of the tokens before, in buffers with room for more.

Shapes: B sequences, G key/value heads, S tokens so far, T new tokens, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROWTH = 128  # tokens for which a full buffer gets room, at least
SMALL = 1 << 15  # values that are copied sooner than one would find out where they lie


def append(kept: Tensor, new: Tensor) -> Tensor:
    """Return `kept` (B, G, S, K) followed by `new` (B, G, T, K), as a view of a buffer that the next call writes into.

    Copying everything for each token would cost as much as the attention itself. `kept` may be any tensor; where it is
    a view that an earlier call returned, or the end of one, the new tokens go into the room behind it. Where gradients
    are wanted nothing is written in place.
    """
    if torch.is_grad_enabled() or kept.numel() < SMALL:
        return torch.cat([kept, new], dim=2)
    (B, G, S, K), total = kept.shape, kept.shape[2] + new.shape[2]
    first, room = _place(kept)
    if first + total <= room:
        buffer = kept.as_strided((B, G, room - first, K), kept.stride())
    else:
        buffer = kept.new_empty(B, G, total + max(GROWTH, total // 2), K)
        buffer[:, :, :S] = kept
    buffer[:, :, S:total] = new
    return buffer[:, :, :total]


def _place(kept: Tensor) -> tuple[int, int]:
    """Return at which token of its buffer a view begins, and how many the buffer has for each head.

    Its strides tell: in a buffer the tokens of a head lie one behind the other, `room` of them before the next head's.
    """
    (_, per_head, per_token, _), K = kept.stride(), kept.shape[3]
    room = per_head // per_token if per_token == K else 0  # 0 for what is no buffer, as projections are
    return (kept.storage_offset() // K % room if room else 0), room
