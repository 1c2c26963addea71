"""The recurrence h[t] = decay[t] h[t-1] + value[t], channel by channel, without a step for every token.

Shapes: B batch, T tokens, D channels, C tokens of a chunk, M chunks.

Chunks run side by side from 0, C steps in all; then each chunk's last value goes on into the next, M steps; then what
came into a chunk is added to each of its tokens, times the decays in between. With C near the root of T that is 2 C
kernels on whole chunks. Decays between 0 and 1 only ever shrink a sum, so float32 is enough: products of decays may
vanish, and nothing is divided by them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.common.precision import exact
from trainer.models.common.window import begins
from trainer.models.interface import LayerState


class LinearScan(torch.autograd.Function):
    """h (B, T, D) of decay (B, T, D), value (B, T, D) and what was before, initial (B, D)."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, value: Tensor, initial: Tensor) -> Tensor:
        h = scan(decay, value, initial)
        ctx.save_for_backward(decay, h, initial)
        return h

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The gradient of h[t] is its own and decay[t+1] times that of h[t+1]: the same recurrence from the end.
        decay, h, initial = ctx.saved_tensors
        later = F.pad(decay[:, 1:], (0, 0, 0, 1)).flip(1)
        d_value = scan(later, gradients[0].flip(1), torch.zeros_like(initial)).flip(1)
        before = torch.cat([initial[:, None], h[:, :-1]], dim=1)
        return d_value * before, d_value, decay[:, 0] * d_value[:, 0]


def linear_scan(decay: Tensor, value: Tensor, initial: Tensor | None) -> Tensor:
    """Return h (B, T, D) in float32. `decay` (B, T, D) lies between 0 and 1; `initial` (B, D) defaults to 0."""
    decay, value = exact(decay), exact(value)
    h: Tensor = LinearScan.apply(decay, value, torch.zeros_like(value[:, 0]) if initial is None else exact(initial))
    return h


def scan(decay: Tensor, value: Tensor, initial: Tensor) -> Tensor:
    """Return h (B, T, D), see the head of this file. Keeps nothing for a backward pass."""
    B, T, D = value.shape
    C = max(1, math.isqrt(T))
    M = -(-T // C)
    if T == 1:
        return torch.addcmul(value, decay, initial[:, None])
    if M * C != T:  # a decay of 0 and a value of 0 after the end reach no token
        decay, value = (F.pad(x, (0, 0, 0, M * C - T)) for x in (decay, value))
    decay, value = decay.reshape(B, M, C, D), value.reshape(B, M, C, D)
    inside, product = torch.empty_like(value), torch.empty_like(decay)
    inside[:, :, 0], product[:, :, 0] = value[:, :, 0], decay[:, :, 0]
    for t in range(1, C):
        torch.addcmul(value[:, :, t], decay[:, :, t], inside[:, :, t - 1], out=inside[:, :, t])
        torch.mul(decay[:, :, t], product[:, :, t - 1], out=product[:, :, t])
    entering = torch.empty_like(value[:, :, 0])
    entering[:, 0] = initial
    for m in range(1, M):
        torch.addcmul(inside[:, m - 1, -1], product[:, m - 1, -1], entering[:, m - 1], out=entering[:, m])
    return inside.addcmul_(product, entering[:, :, None]).view(B, M * C, D)[:, :T]


def continued_scan(decay: Tensor, value: Tensor, documents: Tensor | None, state: LayerState | None) -> Tensor:
    """Return `linear_scan` that begins anew with each document, and goes on from what a state keeps (as "h")."""
    first = begins(documents, state)
    if first is not None:
        decay = decay.masked_fill(first[..., None], 0.0)
    h = linear_scan(decay, value, state.get("h") if state else None)
    if state is not None:
        state["h"] = h[:, -1]
    return h
