"""Activation recomputation: keep less of the forward pass, compute it again in the backward pass (Chen et al. 2016)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(model: nn.Module, amount: Literal["none", "selective", "full"]) -> None:
    """Have parts of each block keep only their inputs: the whole block (`full`) or its attention (`selective`).

    Attention is where a layer keeps most for what it costs to compute again (Korthikanti et al. 2022, section 5).
    A random state is kept with the inputs, so that dropout is the same twice.
    """
    if amount == "none":
        return
    part: Any
    for block in model.blocks:  # type: ignore[union-attr]
        part = block if amount == "full" else block.attn
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)
