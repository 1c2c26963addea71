"""What every language model is to the rest of the trainer: losses or logits of tokens, roles, and a state.

Shapes: B batch, T tokens, V vocabulary rows, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.model import ModelConfig
from trainer.models.common.adaptive import AdaptiveEmbedding, AdaptiveHead
from trainer.models.common.head import PLAIN, Head, LossTerms, capped
from trainer.models.common.initial import fill
from trainer.models.roles import Roles, role_of

# What one layer keeps of the tokens that it has read, by name. Each tensor's first dimension is the sequence (B). Zeros
# mean that nothing was read, so a sequence begins anew where its rows are 0.
LayerState = dict[str, Tensor]


@dataclass
class State:
    """What a model keeps of the tokens that it has read: keys and values, recurrent states, windows.

    A layer's state is a dictionary of its own, empty before the first token. Its first call fills it, and each further
    call puts new tensors there. Every tensor in it has the B sequences as its first dimension, and nothing else of it
    depends on which sequences are read side by side: then `select` works for every family. A tensor may be a view of a
    larger buffer that further calls fill, so two continuations never share a state: each takes its own with `select`.
    """

    layers: list[LayerState]
    length: int = 0  # tokens read so far, the same number for every sequence
    # Of a state that is carried from step to step: attention keeps its inputs at so many of the last tokens. None,
    # while decoding: it keeps keys and values of all tokens.
    memory: int | None = None

    def select(self, rows: Tensor) -> State:
        """Return a state of its own for these sequences (n): in another order, repeated, or without some."""
        layers = [{name: kept.index_select(0, rows) for name, kept in layer.items()} for layer in self.layers]
        return State(layers, self.length, self.memory)


@dataclass(frozen=True)
class Context:
    """What a mixer may need besides its input. One pass of a model has one, the same for all layers."""

    positions: Tensor  # (T), places of the tokens in the sequence
    angles: tuple[Tensor, Tensor] | None = None  # of rotary positions, where the model has them
    # (B, T), or the whole sequence on sequence ranks: the document of each token, which reads its own only. Numbers of
    # neighbouring documents differ, and none comes again.
    documents: Tensor | None = None
    memory: int | None = None  # see State
    made: dict[Any, Any] = field(default_factory=dict)  # what one layer made and others need too, such as masks


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
        self.loss_terms = PLAIN  # of the training loss; evaluation has none
        # Tensor ranks hold a part of the logits each, and put their own loss here: (logits, targets, terms) -> losses.
        self.token_loss: Callable[[Tensor, Tensor, LossTerms], Tensor] | None = None

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
        last: int | None = None,
    ) -> Tensor:
        """Return the loss of each token (B, T), or the logits (B, T, V) where no targets are given.

        `inputs` and `targets` are (B, T). `documents` (B, T) number the documents: a token reads its own only.
        `positions` (T) default to the tokens' places in the sequence; a rank that holds a part of the sequence passes
        the places of its part. With a `state` the tokens follow those that it has read, and it is updated.
        `last` gives those of the last so many tokens alone, whose targets are then the only ones.
        """
        x = self.hidden(inputs, documents, positions, state)
        if state is not None:
            state.length += inputs.shape[1]
        if last is not None:
            x = x[:, -last:]
        if self.config.widened != 1:  # logits, which the head is linear in, shrink with the width
            x = x / self.config.widened
        terms, softcap = self.loss_terms if self.training else PLAIN, self.config.logit_softcap
        if targets is None:
            return capped(self.head(x), softcap)
        if self.token_loss is not None:
            return self.penalised(self.token_loss(capped(self.head(x), softcap), targets, terms))
        return self.penalised(self.head(x, targets, terms, softcap))

    def penalised(self, losses: Tensor) -> Tensor:
        """Return losses (B, T) whose gradient has what a family adds to it; their values stay."""
        return losses

    def initial_state(self) -> State:
        """Return the state before the first token."""
        return State([{} for _ in self.blocks])

    @property
    def state_limit(self) -> int | None:
        """The most tokens that one state can read. None: any number, for families whose state does not grow."""
        return self.config.context_length

    def carried_state(self) -> State:
        """Return the state before the first token of lanes that are read step after step, see `ModelConfig.carries`."""
        return self.initial_state()

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Fill every parameter from a generator of its own, seeded by (seed, name)."""
        for name, parameter in self.named_parameters():
            fill(parameter, name, role_of(self.roles, name).initial, seed)


def places(inputs: Tensor, positions: Tensor | None, state: State | None) -> Tensor:
    """Return the positions (T) of tokens (B, T): as given, or those that follow what the state has read.

    Of a state that is carried they follow what attention remembers, however much was read: no place grows without end.
    """
    if positions is not None:
        return positions
    start = 0 if state is None else state.length if state.memory is None else state.memory
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
