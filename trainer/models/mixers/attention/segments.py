"""What attention sees when a text is read in segments: the tokens of this one, and a memory of those before.

The memory is what came into the layer, not its keys, so that the matrices learn from it too, while no gradient goes
back into it (segment recurrence, Dai et al. 2019, arXiv 1901.02860, section 3.2).

Shapes: B batch, T tokens, D d_model, H heads, M tokens of the memory, S tokens seen: M + T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.models.interface import LayerState


def with_memory(
    x: Tensor, documents: Tensor | None, memory: int, state: LayerState
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return inputs (B, S, D) and documents (B, S) of memory and segment, and whether tokens were read, (B, 1, 1, S).

    The state goes on to the last M of them. `seen` (B) counts the tokens of the memory that were read; before them it
    is empty.
    """
    (B, T, D), device = x.shape, x.device
    if not state:
        state["inputs"] = x.new_zeros(B, memory, D)
        state["seen"] = torch.zeros(B, dtype=torch.int64, device=device)
    if documents is not None and "documents" not in state:
        state["documents"] = documents.new_zeros(B, memory)
    inputs = torch.cat([state["inputs"], x], dim=1)
    if documents is not None:
        documents = torch.cat([state["documents"], documents], dim=1)
        state["documents"] = documents[:, T:]
    read = torch.arange(memory + T, device=device) >= memory - state["seen"][:, None]
    state["inputs"], state["seen"] = inputs[:, T:], (state["seen"] + T).clamp_max(memory)
    return inputs, documents, read[:, None, None]
