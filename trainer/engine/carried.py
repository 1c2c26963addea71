"""What the lanes of one data rank have read, carried from step to step: truncated backpropagation through time.

A step's micro-batches are always of the same lanes, so each has a state of its own. What a step leaves has no gradient:
it ends at the beginning of a sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from trainer.models.interface import LanguageModel, LayerState, State

    Kept = list[tuple[list[LayerState], int]]


class CarriedStates:
    """The states of a data rank's lanes, one for each micro-batch; all are empty at first."""

    def __init__(self, model: LanguageModel, micro_batches: int = 1) -> None:
        self.states = [model.carried_state() for _ in range(micro_batches)]

    def enter(self, index: int, begins: Tensor | None) -> State:
        """Return the state of a micro-batch for its next pass; sequences that `begins` (B) names have read nothing."""
        state = self.states[index]
        if begins is not None and bool(begins.any()):
            for layer in state.layers:
                for name, kept in layer.items():
                    rows = begins.to(kept.device).view(-1, *[1] * (kept.dim() - 1))
                    layer[name] = kept.masked_fill(rows, 0)
        return state

    def leave(self, index: int) -> None:
        """Cut the state of a micro-batch off from the pass that made it, and let go of the memory of that pass."""
        for layer in self.states[index].layers:
            for name, kept in layer.items():
                layer[name] = kept.detach().clone()

    def kept(self) -> Kept:
        """Return what `put_back` takes: the states as they are, not copied: passes make new tensors."""
        return [([dict(layer) for layer in state.layers], state.length) for state in self.states]

    def put_back(self, kept: Kept) -> None:
        """Take the states as they were."""
        for state, (layers, length) in zip(self.states, kept, strict=True):
            state.layers, state.length = layers, length

    def tensors(self) -> dict[str, Tensor]:
        """Return the states of all lanes as `<layer>/<name>`, one behind the other; nothing before the first step."""
        return {
            f"{number}/{name}": torch.cat([state.layers[number][name] for state in self.states])
            for number, layer in enumerate(self.states[0].layers)
            for name in layer
        }

    def fill(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take what `tensors` returned, of these lanes."""
        for key, lanes in tensors.items():
            number, _, name = key.partition("/")
            parts = lanes.to(device).chunk(len(self.states))
            for state, rows in zip(self.states, parts, strict=True):
                state.layers[int(number)][name] = rows.clone()
