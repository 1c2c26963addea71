"""The output head: logits, or the loss of each token with as few passes over the logits as the processor allows.

Shapes: N tokens of a batch in one row, D d_model, V vocabulary rows. With smoothing s the loss of a token is
logsumexp_v(z_v) - (1 - s) z_target - s mean_v(z_v) for its logits z, and with a z-loss c (Chowdhery et al. 2022, arXiv
2204.02311, section 5) c logsumexp_v(z_v)^2 more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.plan.logits import chunk_of_logits, chunked


class LossTerms(NamedTuple):
    """What the training loss has besides cross-entropy; evaluation has neither."""

    smoothing: float = 0.0  # share of a target's probability spread over the vocabulary (Szegedy et al. 2015)
    z_loss: float = 0.0  # times the squared logarithm of the softmax's sum


PLAIN = LossTerms()


class LinearCrossEntropy(torch.autograd.Function):
    """The losses (N) of hidden (N, D), weight (V, D) and targets (N), in chunks of tokens: no (N, V) ever exists.

    The backward pass makes each chunk's logits again instead of keeping them. Logits are float32 from the product on.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, terms: LossTerms, softcap: float | None
    ) -> Tensor:
        lse = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        losses = torch.empty_like(lse)
        for part in chunks(hidden, weight.shape[0]):
            logits = capped((hidden[part] @ weight.t()).float(), softcap)
            lse[part] = torch.logsumexp(logits, dim=1)
            losses[part] = lse[part] - wanted(logits, targets[part], terms.smoothing)
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.terms, ctx.softcap = terms, softcap
        return losses + terms.z_loss * lse**2 if terms.z_loss else losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, targets, lse = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for part in chunks(hidden, weight.shape[0]):
            logits = capped((hidden[part] @ weight.t()).float(), ctx.softcap)
            slope = None if ctx.softcap is None else 1 - (logits / ctx.softcap) ** 2
            probabilities = logits.sub_(lse[part, None]).exp_()
            d_logits = to_gradient(probabilities, targets[part], gradients[0][part], ctx.terms, lse[part])
            d_logits = (d_logits if slope is None else d_logits.mul_(slope)).to(hidden.dtype)
            d_hidden[part] = d_logits @ weight
            d_weight += d_logits.t() @ hidden[part]
        return d_hidden, d_weight.to(weight.dtype), None, None, None


class InPlaceCrossEntropy(torch.autograd.Function):
    """The losses (N) of logits (N, V), float32, that the caller gives away, and targets (N).

    The logits become probabilities, and those their own gradient, in place: one (N, V) where `cross_entropy` makes
    three, whose fresh pages cost a CPU as much as the arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, terms: LossTerms) -> Tensor:
        losses = torch.empty_like(logits[:, 0])
        lse = torch.empty_like(losses) if terms.z_loss else losses
        for part in chunks(logits, logits.shape[1]):
            scores = logits[part]
            chosen, largest = wanted(scores, targets[part], terms.smoothing), scores.amax(dim=1)
            total = scores.sub_(largest[:, None]).exp_().sum(dim=1)
            scores.div_(total[:, None])
            losses[part] = total.log() + largest - chosen
            if terms.z_loss:
                lse[part] = total.log() + largest
                losses[part] += terms.z_loss * lse[part] ** 2
        ctx.save_for_backward(logits, targets, lse if terms.z_loss else None)
        ctx.terms = terms
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        probabilities, targets, lse = ctx.saved_tensors
        return to_gradient(probabilities, targets, gradients[0], ctx.terms, lse), None, None


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return c tanh(z / c) for logits z in float32 (Gemma Team 2024, arXiv 2408.00118), or z itself without a cap."""
    return logits if softcap is None else softcap * torch.tanh(logits.float() / softcap)


def wanted(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Return (1 - s) z_target + s mean_v(z_v) for each row of logits (N, V)."""
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    return chosen.lerp(logits.mean(dim=1), smoothing) if smoothing else chosen


def to_gradient(
    probabilities: Tensor, targets: Tensor, gradients: Tensor, terms: LossTerms, lse: Tensor | None
) -> Tensor:
    """Turn probabilities (N, V), in place, into the gradient of the logits, given that of the losses (N).

    With a z-loss `lse` are the logarithms of the softmax's sums (N).
    """
    if terms.z_loss and lse is not None:
        probabilities *= 1 + 2 * terms.z_loss * lse[:, None]
    hits = torch.full_like(probabilities[:, :1], terms.smoothing - 1)
    probabilities.scatter_add_(1, targets[:, None], hits)
    if terms.smoothing:
        probabilities -= terms.smoothing / probabilities.shape[1]
    return probabilities.mul_(gradients[:, None])


def chunks(rows: Tensor, vocab_rows: int) -> list[slice]:
    """Return the slices of tokens that are worked on at a time."""
    size = max(1, chunk_of_logits(gpu=rows.is_cuda) // vocab_rows)
    return [slice(begin, begin + size) for begin in range(0, rows.shape[0], size)]


class Head(nn.Linear):
    """A linear layer without bias. With targets (B, T) it returns losses (B, T) in nats, float32, instead of logits.

    A soft-cap holds for the losses; logits are returned as they are, for the model to cap.
    """

    def __init__(self, d_model: int, vocab_rows: int) -> None:
        super().__init__(d_model, vocab_rows, bias=False)

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor | None = None,
        terms: LossTerms = PLAIN,
        softcap: float | None = None,
    ) -> Tensor:
        if targets is None:
            return super().forward(hidden)
        flat, words = hidden.flatten(0, 1), targets.flatten()
        losses: Tensor
        if chunked(words.numel() * self.out_features, width=self.in_features, gpu=flat.is_cuda):
            losses = LinearCrossEntropy.apply(flat, self.weight, words, terms, softcap)
        else:
            losses = self.losses(super().forward(flat), words, terms, softcap)
        return losses.view_as(targets)

    def losses(self, logits: Tensor, targets: Tensor, terms: LossTerms, softcap: float | None) -> Tensor:
        """Return the losses (N) of logits (N, V), which the caller gives away, and targets (N). It may be compiled."""
        scores = capped(logits.float(), softcap)
        losses: Tensor
        if not scores.is_cuda and not torch.compiler.is_compiling():
            losses = InPlaceCrossEntropy.apply(scores, targets, terms)
            return losses
        losses = F.cross_entropy(scores, targets, reduction="none", label_smoothing=terms.smoothing)
        return losses + terms.z_loss * torch.logsumexp(scores, dim=1) ** 2 if terms.z_loss else losses
