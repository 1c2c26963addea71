"""The output head: logits, or the loss of each token without ever holding all logits.

Shapes: N tokens of a batch in one row, D d_model, V vocabulary rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Logits that are worked on at a time: enough to fill the processor, few enough to stay in a CPU's cache.
CPU_LOGITS, GPU_LOGITS = 1 << 18, 1 << 27
# Making logits twice costs 2 D V operations a token and saves the traffic of V values. On two CPU cores that was
# measured to pay up to this width (1.4-2.5 times faster at D 32 to 128, slower at 320).
CPU_WIDTH = 192


class LinearCrossEntropy(torch.autograd.Function):
    """loss_n = logsumexp_v(h_n . w_v) - (1 - s) h_n . w_target(n) - s mean_v(h_n . w_v), in chunks of tokens.

    The backward pass makes each chunk's logits again instead of keeping them. Logits are float32 from the product on.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        rows = chunk_rows(hidden, weight)
        lse = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        losses = torch.empty_like(lse)
        for begin in range(0, hidden.shape[0], rows):
            part = slice(begin, begin + rows)
            logits = (hidden[part] @ weight.t()).float()
            lse[part] = torch.logsumexp(logits, dim=1)
            chosen = logits.gather(1, targets[part, None]).squeeze(1)
            if smoothing:
                chosen = chosen.lerp(logits.mean(1), smoothing)
            losses[part] = lse[part] - chosen
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.smoothing = smoothing
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, targets, lse = ctx.saved_tensors
        rows = chunk_rows(hidden, weight)
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for begin in range(0, hidden.shape[0], rows):
            part = slice(begin, begin + rows)
            d_logits = (hidden[part] @ weight.t()).float()
            d_logits.sub_(lse[part, None]).exp_()
            d_logits.scatter_add_(1, targets[part, None], torch.full_like(lse[part, None], ctx.smoothing - 1))
            if ctx.smoothing:
                d_logits -= ctx.smoothing / weight.shape[0]
            d_logits = d_logits.mul_(gradients[0][part, None]).to(hidden.dtype)
            d_hidden[part] = d_logits @ weight
            d_weight += d_logits.t() @ hidden[part]
        return d_hidden, d_weight.to(weight.dtype), None, None


def chunk_rows(hidden: Tensor, weight: Tensor) -> int:
    """Return how many tokens are worked on at a time."""
    logits = GPU_LOGITS if hidden.is_cuda else CPU_LOGITS
    return max(1, min(hidden.shape[0], logits // weight.shape[0]))


def chunks_pay(hidden: Tensor, weight: Tensor) -> bool:
    """Return whether to work in chunks: for narrow models on a CPU, and where all logits would fill a GPU."""
    if hidden.is_cuda:
        return hidden.shape[0] * weight.shape[0] > GPU_LOGITS
    return hidden.shape[1] <= CPU_WIDTH


class Head(nn.Linear):
    """A linear layer without bias. With targets (B, T) it returns losses (B, T) in nats, float32, instead of logits.

    `smoothing` spreads this much of each target's probability evenly over the rows (Szegedy et al. 2015).
    """

    def __init__(self, d_model: int, vocab_rows: int) -> None:
        super().__init__(d_model, vocab_rows, bias=False)

    def forward(self, hidden: Tensor, targets: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        if targets is None:
            return super().forward(hidden)
        flat = hidden.flatten(0, 1)
        if chunks_pay(flat, self.weight):
            losses: Tensor = LinearCrossEntropy.apply(flat, self.weight, targets.flatten(), smoothing)
        else:
            logits = super().forward(flat).float()
            losses = F.cross_entropy(logits, targets.flatten(), reduction="none", label_smoothing=smoothing)
        return losses.view_as(targets)
