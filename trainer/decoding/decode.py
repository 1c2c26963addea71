"""Decoding: how the next token is chosen from the model's distribution, and the loop around it.

Shapes: B sequences that are decoded side by side, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.contract.errors import UserError
from trainer.models.interface import LanguageModel

COLDEST = 1e-6  # logits that are divided by less leave the range of float32


@dataclass(frozen=True)
class Decoding:
    """Temperature 0 is greedy. `top_k` and `top_p` cut the tail of the distribution before sampling."""

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None  # nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or COLDEST <= self.temperature < math.inf):  # also where it is not a number
            raise UserError(
                f"temperature {self.temperature} cannot be used: take 0 for greedy decoding, or {COLDEST} and more"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k {self.top_k} keeps no token: use 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p {self.top_p} is not a share: use a number above 0, at most 1")


def distribution(logits: Tensor, decoding: Decoding) -> Tensor:
    """Return the probabilities (B, V) to sample from, given logits (B, V). Greedy puts everything on the best token."""
    if decoding.temperature == 0:
        best = torch.zeros_like(logits)
        return best.scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / decoding.temperature
    if decoding.top_k is not None and decoding.top_k < logits.shape[-1]:
        least = logits.topk(decoding.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if decoding.top_p is not None and decoding.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of all better tokens: the best one always stays
        ordered = ordered.masked_fill(before >= decoding.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompt: Tensor,
    *,
    tokens: int,
    decoding: Decoding,
    generator: torch.Generator,
    vocab_size: int,
) -> Iterator[Tensor]:
    """Yield the next token (B,) `tokens` times, after a prompt (B, T) of at least one token.

    Each step reads one token and the state of all before it, until the context is full; then the
    later half of the context is read again as a new beginning. Ids from `vocab_size` on are padding and never come.
    Raises UserError where the model gives no distribution, as after a diverged training.
    """
    model.eval()
    context = model.config.context_length
    history, state = prompt[:, -context:], model.initial_state()
    unread = history
    for _ in range(tokens):
        if state.length + unread.shape[1] > context:
            state, unread = model.initial_state(), history[:, -max(1, context // 2) :]
        logits = model(unread, state=state)[:, -1, :vocab_size].float()
        if not logits.isfinite().all():
            raise UserError(
                "the model's outputs are not finite numbers: its training diverged, take an older checkpoint"
            )
        token = torch.multinomial(distribution(logits, decoding), 1, generator=generator)
        yield token[:, 0]
        history = torch.cat([history, token], dim=1)[:, -context:]
        unread = token
