"""Cross-entropy over logits whose vocabulary is split over tensor ranks. The whole logits never exist on any rank.

Shapes: B batch, T tokens, W words of this rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.models.common.head import PLAIN, LossTerms
from trainer.parallel.mesh import Group


class _VocabularyParallelLoss(torch.autograd.Function):
    """As in Megatron-LM (Shoeybi et al. 2019, section 3), with two collectives of (B, T) instead of three."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, start: int, group: Group, terms: LossTerms, vocab: int
    ) -> Tensor:
        scores = logits.float()
        largest = scores.amax(dim=-1)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
        scores = scores - largest.unsqueeze(-1)  # a new tensor, turned into probabilities in place below
        local = targets - start
        outside = (local < 0) | (local >= scores.shape[-1])
        local = local.masked_fill(outside, 0)
        chosen = scores.gather(-1, local.unsqueeze(-1)).squeeze(-1).masked_fill(outside, 0.0)
        smoothing = terms.smoothing
        mean = scores.sum(-1) / vocab if smoothing else torch.zeros_like(chosen)
        scores = scores.exp_()
        sums = torch.stack([scores.sum(-1), chosen, mean])
        dist.all_reduce(sums, group=group)
        total, chosen, mean = sums.unbind()
        lse = total.log() + largest if terms.z_loss else None
        ctx.save_for_backward(scores.div_(total.unsqueeze(-1)), local, outside, lse)
        ctx.terms, ctx.vocab, ctx.dtype = terms, vocab, logits.dtype
        losses = total.log() - (1 - smoothing) * chosen - smoothing * mean
        return losses if lse is None else losses + terms.z_loss * lse**2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        probabilities, local, outside, lse = ctx.saved_tensors
        smoothing, z_loss = ctx.terms
        hit = (~outside).to(probabilities.dtype).unsqueeze(-1) * (smoothing - 1)
        if lse is not None:
            probabilities = probabilities * (1 + 2 * z_loss * lse.unsqueeze(-1))
        gradient = probabilities.scatter_add(-1, local.unsqueeze(-1), hit)
        if smoothing:
            gradient -= smoothing / ctx.vocab
        gradient *= gradients[0].unsqueeze(-1)
        return gradient.to(ctx.dtype), None, None, None, None, None


class VocabularyParallelLoss:
    """The loss of each token (B, T) in float32 from this rank's logits (B, T, W) and whole-vocabulary targets (B, T).

    See `LossTerms` for what the training loss has besides.
    """

    def __init__(self, group: Group, tp_rank: int) -> None:
        self.group, self.tp_rank = group, tp_rank

    def __call__(self, logits: Tensor, targets: Tensor, terms: LossTerms = PLAIN) -> Tensor:
        words = logits.shape[-1]
        vocab = words * dist.get_world_size(self.group)
        losses: Tensor = _VocabularyParallelLoss.apply(  # type: ignore[no-untyped-call]
            logits, targets, self.tp_rank * words, self.group, terms, vocab
        )
        return losses
