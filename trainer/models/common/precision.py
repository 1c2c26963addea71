"""Recurrences sum over many tokens, so they run in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """Return x in float32, or as it is where it is float64."""
    return x if x.dtype == torch.float64 else x.float()
