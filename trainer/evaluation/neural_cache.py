"""The neural cache (Grave, Joulin and Usunier 2017, arXiv 1612.04426): what came after similar states comes again.

It works on any model, after its training: h_i is what the head read when x_{i+1} was predicted, and

    p_cache(w | h_1..t, x_1..t) is proportional to the sum over i < t of 1{w = x_{i+1}} exp(theta h_t . h_i)
    p = (1 - weight) p_model + weight p_cache

Shapes: n tokens of a block, m in the cache, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.evaluation.scoring import Block

QUERIES = 256  # at once: their products with the whole cache are in memory


class NeuralCache:
    """The last `size` pairs of a state and the token that followed it. Fed with the blocks of a stream in order."""

    def __init__(self, size: int, theta: float, weight: float) -> None:
        self.size, self.theta, self.weight = size, theta, weight
        self._states = torch.zeros(0, 0, dtype=torch.float64)
        self._tokens = torch.zeros(0, dtype=torch.long)

    def __call__(self, block: Block) -> Tensor:
        """Return the losses (n) of the mixture, and take the block in. The first token ever has no cache."""
        parts = zip(
            block.losses.split(QUERIES), block.hidden.double().split(QUERIES), block.targets.split(QUERIES), strict=True
        )
        return torch.cat([self._mixed(*part) for part in parts])

    def _mixed(self, losses: Tensor, states: Tensor, targets: Tensor) -> Tensor:
        before = len(self._tokens)
        all_states = torch.cat([self._states, states]) if before else states
        all_tokens = torch.cat([self._tokens, targets])
        place = torch.arange(len(all_tokens))
        query = place[before:, None]
        inside = (place < query) & (place >= query - self.size)
        scores = (self.theta * states @ all_states.T).masked_fill(~inside, -torch.inf)
        hits = scores.masked_fill(all_tokens != targets[:, None], -torch.inf)
        cached = hits.logsumexp(1) - scores.logsumexp(1)
        self._states, self._tokens = all_states[-self.size :], all_tokens[-self.size :]
        if self.weight == 0:
            return losses
        mixed = -torch.logaddexp(math.log1p(-self.weight) - losses, math.log(self.weight) + cached)
        return torch.where(inside.any(1), mixed, losses)
