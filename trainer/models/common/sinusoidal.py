"""Sinusoidal positions (Vaswani et al. 2017, section 3.5). Shapes: T tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return (T, D) for positions (T): sines in even columns, cosines in odd ones, of wavelengths up to 2 pi 10^4."""
    exponent = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    angles = torch.outer(positions.float(), 10_000.0**-exponent)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
