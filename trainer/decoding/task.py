"""What a decoder is given, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from trainer.config.decoding import DECODERS, DecodingConfig
from trainer.decoding.text import Continuation
from trainer.models.interface import LanguageModel
from trainer.models.registry import load

End = Literal["end", "stop", "length"]  # an end token came, a stop string came, or there was no more room


@dataclass(frozen=True)
class Produced:
    """A continuation. `tokens` hold the end token where it came."""

    tokens: list[int]
    logprob: float  # nats, under the model itself: without temperature, cuts and penalties
    end: End


def silent(row: int, token: int) -> None:
    """Tell nobody of a token."""


@dataclass(frozen=True)
class Task:
    """Prompts to continue, each of at least one token. Ids from `vocab_size` on are padding and never come."""

    model: LanguageModel
    prompts: list[list[int]]
    config: DecodingConfig
    vocab_size: int
    eos_id: int | None = None  # None: nothing but length and stop strings ends a sequence
    # The text that tokens add to a prompt, in which stop strings are looked for.
    continued: Continuation | None = None
    # Called by decoders that never take a token back, as soon as it is there: (number of the sequence, token).
    emit: Callable[[int, int], None] = silent

    def end_of(self, prompt: list[int], tokens: list[int]) -> End | None:
        """Return why a continuation is complete, or None while it goes on."""
        if tokens[-1] == self.eos_id:
            return "end"
        if self.config.stop and self.continued is not None:
            text = self.continued(prompt, tokens)
            if any(stop in text for stop in self.config.stop):
                return "stop"
        return "length" if len(tokens) >= self.config.tokens else None

    def emitting(self, emit: Callable[[int, int], None]) -> Task:
        """Return the same task, which tells each token to `emit`."""
        return replace(self, emit=emit)


def decode(task: Task) -> list[list[Produced]]:
    """Return the continuations of each prompt, best first, by the decoder that the settings name."""
    produced: list[list[Produced]] = load(DECODERS[task.config.decoder].function)(task)
    return produced


def rank(produced: list[Produced], alpha: float) -> list[Produced]:
    """Return continuations by log-probability / length^alpha, the best first."""
    return sorted(produced, key=lambda one: -normalised(one.logprob, len(one.tokens), alpha))


def normalised(logprob: float, length: int, alpha: float) -> float:
    """Return the score by which sequences of different lengths are compared."""
    return logprob / math.pow(length, alpha)
