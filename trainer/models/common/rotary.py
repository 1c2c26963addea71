"""Rotary positions. Shapes: B batch, T tokens, H heads, K head width."""

from __future__ import annotations

import torch
from torch import Tensor


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
