"""Rotary positions. Shapes: B batch, T tokens, H heads, K head width."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (T, K/2) of the rotary embedding (Su et al. 2021, arXiv 2104.09864)."""
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = torch.outer(positions.float(), base**-exponent)
    return angles.cos(), angles.sin()


class RotaryTable:
    """The angles of places 0, 1, ..., made once for each device and not again in each pass.

    `float32` values are kept however the model computes, as `rotary_angles` gives them.
    """

    def __init__(self, head_dim: int, base: float) -> None:
        self.head_dim, self.base = head_dim, base
        self._made: tuple[Tensor, Tensor] | None = None

    def first(self, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (count, K/2) on the device of a tensor."""
        made = self._made
        if made is None or len(made[0]) < count or made[0].device != like.device:
            with torch.inference_mode(False):  # what is made while decoding is used in training too
                made = rotary_angles(torch.arange(count, device=like.device), self.head_dim, self.base)
            self._made = made
        return made[0][:count], made[1][:count]


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (i, i + K/2) of x (B, H, T, K) by the angles (T, K/2)."""
    cos, sin = angles[0].to(x.dtype), angles[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
