"""The last inputs of each token, for causal convolutions, and where a recurrence begins anew.

Shapes: B batch, T tokens, D width, k tokens of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.models.interface import LayerState


def causal_window(
    x: Tensor, width: int, documents: Tensor | None, state: LayerState | None, *, dilation: int = 1
) -> Tensor:
    """Return `width` inputs up to each token, itself last, `dilation` apart: (B, T, k, D) for x (B, T, D).

    What lies before the first token, or in another document, is 0. A state keeps the inputs that are still seen; it
    must be given documents always or never.
    """
    before, span = (width - 1) * dilation, (width - 1) * dilation + 1
    past = x.new_zeros(x.shape[0], before, x.shape[2]) if state is None or "inputs" not in state else state["inputs"]
    inputs = torch.cat([past, x], dim=1) if before else x
    if state is not None:
        state["inputs"] = inputs[:, inputs.shape[1] - before :]
    window = inputs.unfold(1, span, 1)[..., ::dilation].transpose(2, 3)
    if documents is None:
        return window
    numbers = torch.cat([_past_documents(documents, before, state), documents], dim=1)
    if state is not None:
        state["documents"] = numbers[:, numbers.shape[1] - before :]
    same = numbers.unfold(1, span, 1)[..., ::dilation] == documents[:, :, None]
    return window * same[..., None].to(x.dtype)


def begins(documents: Tensor | None, state: LayerState | None) -> Tensor | None:
    """Return whether each token (B, T) is the first of its document, where a recurrence forgets; None without any.

    The first token of all begins with an empty state anyway. A state keeps the last document (B, 1), so a sequence may
    come in parts, if numbers go on in the next part. `causal_window` keeps its own.
    """
    if documents is None:
        return None
    last = documents[:, :1] if state is None or "document" not in state else state["document"]
    if state is not None:
        state["document"] = documents[:, -1:]
    return documents != torch.cat([last, documents[:, :-1]], dim=1)


def _past_documents(documents: Tensor, before: int, state: LayerState | None) -> Tensor:
    if state is not None and "documents" in state:
        return state["documents"]
    return documents.new_full((documents.shape[0], before), -1)
