"""Sines and cosines of places at many wavelengths. Shapes: T tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return (T, D) for positions (T), as in Vaswani et al. 2017: sines in even columns, cosines in odd ones."""
    sines, cosines = _by_wavelength(positions, width)
    return torch.stack([sines, cosines], dim=-1).flatten(1)[:, :width]


def halves(places: Tensor, width: int) -> Tensor:
    """Return (T, D) for places (T), as Transformer-XL (Dai et al. 2019): first all sines, then all cosines."""
    sines, cosines = _by_wavelength(places, width)
    return torch.cat([sines, cosines[:, : width // 2]], dim=1)


def _by_wavelength(places: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return sines and cosines (T, D / 2, rounded up), float32, of wavelengths from 2 pi to 2 pi 10^4."""
    exponent = torch.arange(0, width, 2, device=places.device, dtype=torch.float32) / width
    angles = torch.outer(places.float(), 10_000.0**-exponent)
    return angles.sin(), angles.cos()
