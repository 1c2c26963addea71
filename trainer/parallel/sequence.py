"""Sequence parallelism: a rank holds a part of each sequence, and in attention whole sequences of a part of the heads.

DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv 2309.14509, section 3): an all-to-all before attention exchanges parts
of the sequence for heads, one after it exchanges back. Shapes: B batch, H heads of this rank, T tokens of the whole
sequence, K head width, s sequence ranks; a tensor is (B, H, T/s, K) outside and (B, H/s, T, K) inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.models.common.sight import Sight
from trainer.parallel.mesh import Group, Mesh

Attend = Callable[[Tensor, Tensor, Tensor, Sight, float], Tensor]


class _Exchange(torch.autograd.Function):
    """Split one dimension over the ranks of a group and join another; its gradient is the exchange back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, split: int, join: int) -> Tensor:
        ctx.group, ctx.split, ctx.join = group, split, join
        return exchange(x, group, split, join)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return exchange(gradients[0], ctx.group, ctx.join, ctx.split), None, None, None


def exchange(x: Tensor, group: Group, split: int, join: int) -> Tensor:
    """Give each rank its share of dimension `split`, and put the shares of dimension `join` together."""
    ranks = dist.get_world_size(group)
    sent = torch.stack([part.contiguous() for part in x.chunk(ranks, dim=split)])
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return torch.cat(received.unbind(), dim=join)


def to_heads(x: Tensor, group: Group) -> Tensor:
    """(B, H, T/s, K) to (B, H/s, T, K)."""
    exchanged: Tensor = _Exchange.apply(x, group, 1, 2)  # type: ignore[no-untyped-call]
    return exchanged


def to_sequence(x: Tensor, group: Group) -> Tensor:
    """(B, H/s, T, K) to (B, H, T/s, K)."""
    exchanged: Tensor = _Exchange.apply(x, group, 2, 1)  # type: ignore[no-untyped-call]
    return exchanged


def over_sequence(attend: Attend, group: Group) -> Attend:
    """Wrap an attention function of whole sequences into one of parts of them."""

    def attend_parts(query: Tensor, key: Tensor, value: Tensor, sight: Sight, dropout: float) -> Tensor:
        query, key, value = (to_heads(x, group) for x in (query, key, value))
        return to_sequence(attend(query, key, value, sight, dropout), group)

    return attend_parts


def with_own_random_stream(attend: Attend, offset: int) -> Attend:
    """Draw attention's dropout from a stream of this rank's own: each rank drops in other heads.

    Everything outside attention is the same on all tensor ranks, and must drop the same. The stream is seeded from
    the common one, so that recomputation, which restores the common one, draws the same again.
    """

    def attend_apart(query: Tensor, key: Tensor, value: Tensor, sight: Sight, dropout: float) -> Tensor:
        if dropout == 0.0:
            return attend(query, key, value, sight, dropout)
        seed = int(torch.randint(2**62, ())) + offset
        with torch.random.fork_rng(devices=[query.device] if query.is_cuda else []):
            torch.manual_seed(seed)
            return attend(query, key, value, sight, dropout)

    return attend_apart


def with_own_heads(attend: Attend, place: int, ranks: int) -> Attend:
    """Give attention the part of the slopes that belongs to the heads of this rank."""

    def attend_own(query: Tensor, key: Tensor, value: Tensor, sight: Sight, dropout: float) -> Tensor:
        return attend(query, key, value, sight.share(place, ranks), dropout)

    return attend_own


def shard_attention(model: nn.Module, mesh: Mesh) -> None:
    """Wrap the `attend` of every attention module for this mesh; nothing to do for one tensor and sequence rank."""
    module: Any
    for module in model.modules():
        if not hasattr(module, "attend"):
            continue
        if mesh.tp_size * mesh.sp_size > 1:
            offset = mesh.tp_rank * mesh.sp_size + mesh.sp_rank
            module.attend = with_own_heads(module.attend, offset, mesh.tp_size * mesh.sp_size)
            module.attend = with_own_random_stream(module.attend, offset)
            module.attend_where = with_own_random_stream(module.attend_where, offset)
        if mesh.sequence_group is not None:
            module.attend = over_sequence(module.attend, mesh.sequence_group)
