"""Held-out loss, perplexity, bits per byte and loss by position, in a fixed order, the same on any layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.data.read.batches import MicroBatch
from trainer.engine.carried import CarriedStates
from trainer.engine.engine import Engine
from trainer.parallel.mesh import Mesh


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a held-out set gives. Losses in nats per token."""

    eval_set: str
    loss: float
    loss_sem: float | None  # standard error of the mean over sequences
    perplexity: float
    bits_per_byte: float | None
    loss_by_position: list[float]
    evaluated_tokens: int
    evaluated_bytes: int | None  # of the text of these tokens

    def row(self) -> dict[str, object]:
        """Return the values by name."""
        return asdict(self)


def evaluate(
    engine: Engine,
    mesh: Mesh,
    batches: Iterable[MicroBatch],
    *,
    name: str,
    position_buckets: int,
    text_bytes: Callable[[MicroBatch], float] | None,
    carried: CarriedStates | None = None,
) -> Evaluation:
    """Evaluate the sequences that the data ranks hold together. Every rank must call it, with equally many batches.

    Bits per byte = total loss of the evaluated targets / ln 2 / bytes of text of these targets, as `text_bytes` counts
    them: independent of the tokenizer, unlike perplexity. With `carried`, sequences follow those of the batch before.
    """
    losses_of = engine.token_losses if carried is None else partial(engine.token_losses, carried=carried)
    sums, counted = torch.zeros(()), 0.0
    for batch in batches:
        losses = losses_of(batch).double()
        weights = torch.ones_like(losses)
        if batch.weights is not None:
            weights = batch.weights.to(losses.device, non_blocking=True).double()
        part = _sums(losses, weights, position_buckets)
        sums = part if sums.dim() == 0 else sums + part
        counted += text_bytes(batch) if text_bytes else 0.0
    everything = torch.cat([sums, torch.full_like(sums[:1], counted)])
    if mesh.data_group is not None:
        dist.all_reduce(everything, group=mesh.data_group)
    found = everything.cpu()  # the one time that the host waits for the device
    return _finish(found[:-1], name, position_buckets, round(found[-1].item()) if text_bytes else None)


def _sums(losses: Tensor, weights: Tensor, buckets: int) -> Tensor:
    """Return (2 buckets + 3) sums: loss and weight by position, then sequences, their means and squared means."""
    T = losses.shape[1]
    bucket = torch.arange(T, device=losses.device) * min(buckets, T) // T
    by_position = losses.new_zeros(2, buckets)
    by_position[0].index_add_(0, bucket, (losses * weights).sum(0))
    by_position[1].index_add_(0, bucket, weights.sum(0))
    weight = weights.sum(1)
    real = weight > 0  # not selected by: how many there are, the host does not know
    mean = torch.where(real, (losses * weights).sum(1) / weight, 0.0)
    sequences = torch.stack([real.sum().double(), mean.sum(), mean.square().sum()])
    return torch.cat([by_position.flatten(), sequences])


def _finish(sums: Tensor, name: str, buckets: int, text_bytes: int | None) -> Evaluation:
    by_position, (n, total, squares) = sums[: 2 * buckets].view(2, buckets), sums[2 * buckets :].tolist()
    tokens, total_loss = by_position[1].sum().item(), by_position[0].sum().item()
    loss = total_loss / tokens
    variance = max(squares / n - (total / n) ** 2, 0.0) * n / (n - 1) if n > 1 else None
    used = by_position[1] > 0
    return Evaluation(
        eval_set=name,
        loss=loss,
        loss_sem=math.sqrt(variance / n) if variance is not None else None,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=total_loss / math.log(2) / text_bytes if text_bytes else None,
        loss_by_position=(by_position[0][used] / by_position[1][used]).tolist(),
        evaluated_tokens=round(tokens),
        evaluated_bytes=text_bytes,
    )
