"""Activation recomputation: keep less of the forward pass, compute it again in the backward pass (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.models.interface import LanguageModel, LayerState


def recompute_blocks(model: LanguageModel, amount: Literal["none", "selective", "full"]) -> None:
    """Have parts of each block keep only their inputs: the whole block (`full`) or its mixer (`selective`).

    Attention is where a layer keeps most for what it costs to compute again (Korthikanti et al. 2022, section 5).
    A random state is kept with the inputs, so that dropout is the same twice.
    """
    if amount == "none":
        return
    part: Any
    for block in model.blocks:
        part = block if amount == "full" else block.mixer
        part.forward = partial(_recomputed, part.forward)


def _recomputed(
    forward: Callable[..., Tensor], *arguments: Any, state: LayerState | None = None, **keywords: Any
) -> Tensor:
    """Return what `forward` gives, which is called twice: so each call has the state as it was before, for itself."""
    if state is None:
        result: Tensor = checkpoint(forward, *arguments, state=None, use_reentrant=False, **keywords)
        return result
    before = dict(state)

    def once(*inputs: Any) -> tuple[Tensor, LayerState]:
        own = dict(before)
        return forward(*inputs, state=own, **keywords), own

    result, after = checkpoint(once, *arguments, use_reentrant=False)
    state.update(after)
    return result
