"""What every language model is to the rest of the trainer: losses or logits of tokens, roles, and a state.

Shapes: B batch, T tokens, V vocabulary rows, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.config.model import ModelConfig
from trainer.models.common.adaptive import AdaptiveEmbedding, AdaptiveHead
from trainer.models.common.head import Head
from trainer.models.common.initial import fill
from trainer.models.roles import Roles, role_of

# What one layer keeps of the tokens that it has read, by name. Each tensor's first dimension is the sequence (B).
LayerState = dict[str, Tensor]


@dataclass
class State:
    """What a model keeps of the tokens that it has read: keys and values, recurrent states, windows.

    A layer's state is a dictionary of its own, empty before the first token. Its first call fills it, and each further
    call puts new tensors there.
    """

    layers: list[LayerState]
    length: int = 0  # tokens read so far


@dataclass(frozen=True)
class Context:
    """What a mixer may need besides its input. One pass of a model has one, the same for all layers."""

    positions: Tensor  # (T), places of the tokens in the sequence
    angles: tuple[Tensor, Tensor] | None = None  # of rotary positions, where the model has them
    # (B, T), or the whole sequence on sequence ranks: the document of each token, which reads its own only. Numbers of
    # neighbouring documents differ.
    documents: Tensor | None = None


class LanguageModel(nn.Module):
    """Base of all families. A family sets the attributes below in its constructor and defines `hidden`.

    `blocks` are the parts that are recomputed, compiled and multiplied in fp8 each by itself.
    """

    embed: nn.Module
    blocks: nn.ModuleList
    head: Head | AdaptiveHead

    def __init__(self, config: ModelConfig, roles: Roles) -> None:
        super().__init__()
        self.config, self.roles = config, roles
        self.label_smoothing = 0.0  # of the training loss; evaluation is never smoothed
        # Tensor ranks hold a part of the logits each, and put their own loss here: (logits, targets, smoothing) ->
        # losses.
        self.token_loss: Callable[[Tensor, Tensor, float], Tensor] | None = None

    def hidden(self, inputs: Tensor, documents: Tensor | None, positions: Tensor | None, state: State | None) -> Tensor:
        """Return what the head reads, (B, T, D)."""
        raise NotImplementedError

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        state: State | None = None,
    ) -> Tensor:
        """Return the loss of each token (B, T), or the logits (B, T, V) where no targets are given.

        `inputs` and `targets` are (B, T). `documents` (B, T) number the documents: a token reads its own only.
        `positions` (T) default to the tokens' places in the sequence; a rank that holds a part of the sequence passes
        the places of its part. With a `state` the tokens follow those that it has read, and it is updated.
        """
        x = self.hidden(inputs, documents, positions, state)
        if state is not None:
            state.length += inputs.shape[1]
        smoothing = self.label_smoothing if self.training else 0.0
        if targets is not None and self.token_loss is not None:
            return self.token_loss(self.head(x), targets, smoothing)
        result: Tensor = self.head(x) if targets is None else self.head(x, targets, smoothing)
        return result

    def initial_state(self) -> State:
        """Return the state before the first token."""
        return State([{} for _ in self.blocks])

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Fill every parameter from a generator of its own, seeded by (seed, name)."""
        for name, parameter in self.named_parameters():
            fill(parameter, name, role_of(self.roles, name).initial, seed)


def places(inputs: Tensor, positions: Tensor | None, state: State | None) -> Tensor:
    """Return the positions (T) of tokens (B, T): as given, or those that follow what the state has read."""
    if positions is not None:
        return positions
    start = state.length if state is not None else 0
    return torch.arange(start, start + inputs.shape[1], device=inputs.device)


def tie_head(model: LanguageModel) -> None:
    """Make the head's matrices the embedding's, where the configuration says so."""
    if not model.config.tied_embeddings:
        return
    if isinstance(model.head, AdaptiveHead):
        assert isinstance(model.embed, AdaptiveEmbedding), "an adaptive head is tied to an adaptive embedding"
        model.head.tie(model.embed)
    else:
        model.head.weight = model.embed.weight  # type: ignore[assignment]
