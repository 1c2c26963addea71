"""The output head: logits, or the loss of each token with as few passes over the logits as the processor allows.

Shapes: N tokens of a batch in one row, D d_model, V vocabulary rows. With smoothing s the loss of a token is
logsumexp_v(z_v) - (1 - s) z_target - s mean_v(z_v) for its logits z.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.plan.activations import CPU_LOGITS, MOST_LOGITS


class LinearCrossEntropy(torch.autograd.Function):
    """The losses (N) of hidden (N, D), weight (V, D) and targets (N), in chunks of tokens: no (N, V) ever exists.

    The backward pass makes each chunk's logits again instead of keeping them. Logits are float32 from the product on.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        lse = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        losses = torch.empty_like(lse)
        for part in chunks(hidden, weight.shape[0]):
            logits = (hidden[part] @ weight.t()).float()
            lse[part] = torch.logsumexp(logits, dim=1)
            losses[part] = lse[part] - wanted(logits, targets[part], smoothing)
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.smoothing = smoothing
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, targets, lse = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for part in chunks(hidden, weight.shape[0]):
            logits = (hidden[part] @ weight.t()).float()
            probabilities = logits.sub_(lse[part, None]).exp_()
            d_logits = to_gradient(probabilities, targets[part], gradients[0][part], ctx.smoothing).to(hidden.dtype)
            d_hidden[part] = d_logits @ weight
            d_weight += d_logits.t() @ hidden[part]
        return d_hidden, d_weight.to(weight.dtype), None, None


class InPlaceCrossEntropy(torch.autograd.Function):
    """The losses (N) of logits (N, V), float32, that the caller gives away, and targets (N).

    The logits become probabilities, and those their own gradient, in place: one (N, V) where `cross_entropy` makes
    three, whose fresh pages cost a CPU as much as the arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        losses = torch.empty_like(logits[:, 0])
        for part in chunks(logits, logits.shape[1]):
            scores = logits[part]
            chosen, largest = wanted(scores, targets[part], smoothing), scores.amax(dim=1)
            total = scores.sub_(largest[:, None]).exp_().sum(dim=1)
            scores.div_(total[:, None])
            losses[part] = total.log() + largest - chosen
        ctx.save_for_backward(logits, targets)
        ctx.smoothing = smoothing
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        probabilities, targets = ctx.saved_tensors
        return to_gradient(probabilities, targets, gradients[0], ctx.smoothing), None, None


def wanted(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Return (1 - s) z_target + s mean_v(z_v) for each row of logits (N, V)."""
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    return chosen.lerp(logits.mean(dim=1), smoothing) if smoothing else chosen


def to_gradient(probabilities: Tensor, targets: Tensor, gradients: Tensor, smoothing: float) -> Tensor:
    """Turn probabilities (N, V), in place, into the gradient of the logits, given that of the losses (N)."""
    hits = torch.full_like(probabilities[:, :1], smoothing - 1)
    probabilities.scatter_add_(1, targets[:, None], hits)
    if smoothing:
        probabilities -= smoothing / probabilities.shape[1]
    return probabilities.mul_(gradients[:, None])


def chunks(rows: Tensor, vocab_rows: int) -> list[slice]:
    """Return the slices of tokens that are worked on at a time."""
    logits = MOST_LOGITS if rows.is_cuda else CPU_LOGITS
    size = max(1, logits // vocab_rows)
    return [slice(begin, begin + size) for begin in range(0, rows.shape[0], size)]


class Head(nn.Linear):
    """A linear layer without bias. With targets (B, T) it returns losses (B, T) in nats, float32, instead of logits.

    `smoothing` spreads this much of each target's probability evenly over the rows (Szegedy et al. 2015).
    """

    def __init__(self, d_model: int, vocab_rows: int) -> None:
        super().__init__(d_model, vocab_rows, bias=False)

    def forward(self, hidden: Tensor, targets: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        if targets is None:
            return super().forward(hidden)
        flat, words = hidden.flatten(0, 1), targets.flatten()
        losses: Tensor
        if words.numel() * self.out_features > MOST_LOGITS:
            losses = LinearCrossEntropy.apply(flat, self.weight, words, smoothing)
        elif flat.is_cuda:  # there cross_entropy is one fused kernel
            logits = super().forward(flat).float()
            losses = F.cross_entropy(logits, words, reduction="none", label_smoothing=smoothing)
        else:
            losses = InPlaceCrossEntropy.apply(super().forward(flat).float(), words, smoothing)
        return losses.view_as(targets)
