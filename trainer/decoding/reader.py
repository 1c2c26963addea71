"""Reading tokens with a model's state, row by row of a batch, on beyond the model's context.

Shapes: B rows, n tokens that are read at once, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.contract.errors import UserError
from trainer.models.interface import LanguageModel, State


class Reader:
    """Rows that are read side by side from their first token on, all at the same position.

    A state that can hold no more tokens is left: the later half of what it held, and the new tokens, are read again as
    a beginning. So what a token is predicted from depends on its row and its position alone.
    """

    def __init__(self, model: LanguageModel, vocab_size: int) -> None:
        self.model, self.vocab_size = model.eval(), vocab_size
        self.limit = model.state_limit
        self.state: State = model.initial_state()
        self.history: Tensor | None = None  # (B, up to limit) tokens of the state, where it has a limit

    @torch.inference_mode()
    def read(self, tokens: Tensor) -> Tensor:
        """Read tokens (B, n) and return the logits (B, V) of the next one, in float32 at least.

        Raises UserError where the model gives no distribution, as after a diverged training.
        """
        if self.limit is not None:
            known = tokens if self.history is None else torch.cat([self.history, tokens], dim=1)
            if known.shape[1] > self.limit:
                known = known[:, -max(1, self.limit // 2) :]
                self.state, tokens = self.model.initial_state(), known
            self.history = known
        logits: Tensor = self.model(tokens, state=self.state, last=1)[:, -1, : self.vocab_size]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not logits.isfinite().all():
            raise UserError(
                "the model's outputs are not finite numbers: its training diverged, take an older checkpoint"
            )
        return logits

    @torch.inference_mode()
    def select(self, rows: Tensor) -> Reader:
        """Return a reader of its own that goes on with these rows (n): reordered, repeated, or fewer."""
        other = Reader(self.model, self.vocab_size)
        other.state = self.state.select(rows)
        other.history = None if self.history is None else self.history[rows]
        return other


def last_tokens(model: LanguageModel, prompt: list[int]) -> list[int]:
    """Return the part of a prompt that a model can read at once: its end."""
    return prompt if model.state_limit is None else prompt[-model.state_limit :]
