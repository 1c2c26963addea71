"""Decoders that append one token after the other: greedy, ancestral, best of several.

All sequences are read side by side from position 0 on. Where prompts differ in length, the longer ones are still being
read while the shorter ones already go on: nothing is padded or masked, so every row is what it would be alone, for
every family of models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trainer.decoding.distribution import draw, penalised, shaped
from trainer.decoding.reader import Reader, last_tokens
from trainer.decoding.task import End, Produced, Task, rank, silent

# (logits (B, V), tokens seen (B, V) or None, the rows that need a token) -> a token for each row (B)
Choose = Callable[[Tensor, Tensor | None, list[int]], Tensor]


@dataclass
class Row:
    """A sequence in the making."""

    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    end: End | None = None

    def token(self, at: int) -> int:
        """Return the token at a position; behind the last one 0, which nobody looks at."""
        if at < len(self.prompt):
            return self.prompt[at]
        made = at - len(self.prompt)
        return self.tokens[made] if made < len(self.tokens) else 0

    def produced(self) -> Produced:
        """Return what came of it."""
        assert self.end is not None
        return Produced(self.tokens, self.logprob, self.end)


def greedy(task: Task) -> list[list[Produced]]:
    """Take the most probable token at each step."""

    def choose(logits: Tensor, seen: Tensor | None, _: list[int]) -> Tensor:
        return (logits if seen is None else penalised(logits, seen, task.config.repetition_penalty)).argmax(-1)

    return [[one] for one in append(task, task.prompts, choose)]


def ancestral(task: Task) -> list[list[Produced]]:
    """Draw tokens from the model's distribution, as `shaped`. Temperature 0 is greedy."""
    config = task.config
    if config.temperature == 0:
        return [many * config.count for many in greedy(task)]
    return _drawn(task, config.count)


def best_of(task: Task) -> list[list[Produced]]:
    """Draw `draws` sequences, and return the most probable `count` of them."""
    config = task.config
    many = _drawn(task.emitting(silent), config.draws)
    return [rank(one, config.length_alpha)[: config.count] for one in many]


def _drawn(task: Task, times: int) -> list[list[Produced]]:
    """Draw sequences. Each has its own random numbers, by (seed, its number for its prompt): no row changes another."""
    generators = [generator(task.config.seed, number) for _ in task.prompts for number in range(times)]

    def choose(logits: Tensor, seen: Tensor | None, rows: list[int]) -> Tensor:
        uniform = torch.zeros(len(generators), dtype=torch.float64)
        for row in rows:
            uniform[row] = torch.rand((), dtype=torch.float64, generator=generators[row])
        return draw(shaped(logits, task.config, seen), uniform)

    made = append(task, [prompt for prompt in task.prompts for _ in range(times)], choose)
    return [made[begin : begin + times] for begin in range(0, len(made), times)]


def generator(seed: int, number: int) -> torch.Generator:
    """Return the random numbers of one sequence."""
    (mixed,) = np.random.SeedSequence([seed % 2**64, number]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed))


def append(task: Task, prompts: list[list[int]], choose: Choose) -> list[Produced]:
    """Return the continuation of each prompt, a token at a time as `choose` says."""
    rows = [Row(last_tokens(task.model, prompt)) for prompt in prompts]
    reader = Reader(task.model, task.vocab_size)
    device = next(task.model.parameters()).device
    seen = None
    if task.config.repetition_penalty != 1:
        seen = torch.zeros(len(rows), task.vocab_size, dtype=torch.bool, device=device)
    position = 0
    unread = torch.tensor(_next_tokens(rows, position), device=device)
    while True:
        logits = reader.read(unread)
        position += unread.shape[1]
        if seen is not None:
            seen.scatter_(1, unread, True)
        waiting = [n for n, row in enumerate(rows) if row.end is None and len(row.prompt) <= position]
        if waiting:
            _take(task, rows, waiting, choose(logits, seen, waiting), logits)
        if all(row.end for row in rows):
            return [row.produced() for row in rows]
        unread = torch.tensor(_next_tokens(rows, position), device=device)


def _take(task: Task, rows: list[Row], waiting: list[int], chosen: Tensor, logits: Tensor) -> None:
    """Give the rows that wait their tokens, and end those that are complete."""
    tokens = chosen.tolist()
    logprobs = (logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
    for number in waiting:
        row = rows[number]
        row.tokens.append(tokens[number])
        row.logprob += logprobs[number]
        row.end = task.end_of(row.prompt, row.tokens)
        task.emit(number, tokens[number])


def _next_tokens(rows: list[Row], position: int) -> list[list[int]]:
    """Return what each row reads next: one token, or more where all that go on have more of their prompts left.

    A row that is complete reads anything, and nothing comes of it.
    """
    size = max(1, min(len(row.prompt) for row in rows if row.end is None) - position)
    return [[row.token(at) for at in range(position, position + size)] for row in rows]
