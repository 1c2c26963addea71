"""Exhaustive search: the most probable of all V^T sequences, exactly."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from trainer.contract.errors import UserError
from trainer.decoding.reader import Reader, last_tokens
from trainer.decoding.task import End, Produced, Task

MOST_SEQUENCES = 2**25
BLOCK = 1024  # prefixes that are read at once


def exhaustive(task: Task) -> list[list[Produced]]:
    """Return the most probable sequence that ends with an end token or has `tokens` tokens.

    A prefix no more probable than a complete sequence cannot win, and is not followed. Raises UserError above
    MOST_SEQUENCES sequences.
    """
    refuse_too_many(task.vocab_size, task.config.tokens)
    return [[_Search(task).best(last_tokens(task.model, prompt))] for prompt in task.prompts]


def refuse_too_many(V: int, T: int) -> None:
    """Raise UserError where V^T sequences are more than MOST_SEQUENCES."""
    digits = T * math.log10(V)
    if digits < 15 and V**T <= MOST_SEQUENCES:
        return
    shown = f"{V**T:,}" if digits < 15 else f"about 10^{round(digits)}"
    most = next(t for t in itertools.count() if V ** (t + 1) > MOST_SEQUENCES)
    raise UserError(
        f"exhaustive decoding compares {V}^{T} = {shown} sequences, more than {MOST_SEQUENCES:,}: "
        f"{f'lower tokens to {most}' if most else 'the vocabulary is too large'}, or take the decoder beam"
    )


class _Search:
    """Depth first, the most probable blocks of prefixes first. Shapes: n prefixes, t tokens of each, V vocabulary."""

    def __init__(self, task: Task) -> None:
        self.task, self.device = task, next(task.model.parameters()).device
        self.found: Produced | None = None

    @torch.inference_mode()
    def best(self, prompt: list[int]) -> Produced:
        reader = Reader(self.task.model, self.task.vocab_size)
        logits = reader.read(torch.tensor([prompt], device=self.device))
        no_tokens = torch.zeros(1, 0, dtype=torch.long, device=self.device)
        self._follow(reader, logits, no_tokens, torch.zeros(1, dtype=torch.float64, device=self.device))
        assert self.found is not None
        return self.found

    def _follow(self, reader: Reader, logits: Tensor, prefixes: Tensor, scores: Tensor) -> None:
        """Compare all sequences that begin with prefixes (n, t) of these log-probabilities (n)."""
        totals = scores[:, None] + logits.double().log_softmax(-1)
        if prefixes.shape[1] + 1 == self.task.config.tokens:
            self._compare(totals, prefixes)
            return
        if self.task.eos_id is not None:
            self._compare(totals[:, [self.task.eos_id]], prefixes, only=self.task.eos_id)
            totals[:, self.task.eos_id] = -torch.inf
        ordered = totals.flatten().sort(descending=True, stable=True)
        for begin in range(0, len(ordered.values), BLOCK):
            part = slice(begin, begin + BLOCK)
            hopeful = ordered.values[part] > (self.found.logprob if self.found else -torch.inf)
            if not hopeful.any():
                return
            values, places = ordered.values[part][hopeful], ordered.indices[part][hopeful]
            rows, tokens = places // totals.shape[1], places % totals.shape[1]
            child = reader.select(rows)
            longer = torch.cat([prefixes[rows], tokens[:, None]], dim=1)
            self._follow(child, child.read(tokens[:, None]), longer, values)

    def _compare(self, totals: Tensor, prefixes: Tensor, only: int | None = None) -> None:
        """Take the best of complete sequences: prefixes (n, t) and each of the tokens (n, V), or the `only` one."""
        place = int(totals.argmax())
        row, token = divmod(place, totals.shape[1])
        token, score = token if only is None else only, float(totals.flatten()[place])
        if self.found is None or score > self.found.logprob:
            end: End = "end" if token == self.task.eos_id else "length"
            self.found = Produced([*prefixes[row].tolist(), token], score, end)
