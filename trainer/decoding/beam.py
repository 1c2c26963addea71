"""Beam search: keep the most probable prefixes, and compare complete sequences by their length-normalised scores.

Shapes: k live prefixes, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.decoding.reader import Reader, last_tokens
from trainer.decoding.task import Produced, Task, normalised, rank


@dataclass
class Live:
    """Prefixes of one length, best first, and their log-probabilities."""

    tokens: list[list[int]]
    scores: Tensor  # (k) float64


def beam(task: Task) -> list[list[Produced]]:
    """Return the best `count` sequences of a search of `width`, one prompt after the other.

    The score of a sequence is its log-probability, end token included, over its length^alpha: Wu et al. 2016 (arXiv
    1609.08144) without their constant, as in `transformers`. The search ends when no live prefix can still get ahead.
    """
    return [_search(task, last_tokens(task.model, prompt))[: task.config.count] for prompt in task.prompts]


@torch.inference_mode()
def _search(task: Task, prompt: list[int]) -> list[Produced]:
    config, device = task.config, next(task.model.parameters()).device
    reader = Reader(task.model, task.vocab_size)
    logits = reader.read(torch.tensor([prompt], device=device))
    live = Live([[]], torch.zeros(1, dtype=torch.float64, device=device))
    complete: list[Produced] = []
    while True:
        live, parents = _extend(task, prompt, live, logits, complete)
        complete = rank(complete, config.length_alpha)[: config.width]
        if not live.tokens or _settled(task, live, complete):
            return complete
        if parents != list(range(len(logits))):
            reader = reader.select(torch.tensor(parents, device=device))
        logits = reader.read(torch.tensor([tokens[-1:] for tokens in live.tokens], device=device))


def _extend(
    task: Task, prompt: list[int], live: Live, logits: Tensor, complete: list[Produced]
) -> tuple[Live, list[int]]:
    """Return the best prefixes that are a token longer, and the rows they come from. Complete ones go to `complete`."""
    width, V = task.config.width, logits.shape[1]
    totals = (live.scores[:, None] + logits.double().log_softmax(-1)).flatten()
    # Of each prefix one continuation ends, so twice the width leaves enough that do not.
    best = totals.topk(min(2 * width, totals.numel()))
    tokens: list[list[int]] = []
    kept: list[int] = []
    parents: list[int] = []
    for place, (at, score) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
        parent, token = divmod(at, V)
        longer = [*live.tokens[parent], token]
        if end := task.end_of(prompt, longer):
            if place < width:
                complete.append(Produced(longer, score, end))
        elif len(tokens) < width:
            tokens.append(longer)
            kept.append(place)
            parents.append(parent)
    return Live(tokens, best.values[kept]), parents


def _settled(task: Task, live: Live, complete: list[Produced]) -> bool:
    """Return whether no live prefix can get ahead of the last sequence that is wanted: scores only fall."""
    config = task.config
    if len(complete) < config.count:
        return False
    last = complete[config.count - 1]
    reachable = normalised(float(live.scores[0]), config.tokens, config.length_alpha)
    return normalised(last.logprob, len(last.tokens), config.length_alpha) >= reachable
