"""Gradient norm and clipping where the library leaves both to us, and the limit of a norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.parallel.mesh import Mesh


@torch.no_grad()
def clip_gradients(model: nn.Module, clip_norm: float, mesh: Mesh, refused: Callable[[Tensor], bool]) -> Tensor:
    """Return the norm over the whole model and scale the gradients down to `clip_norm` (0: never).

    A split parameter's share counts on each tensor rank, a replicated one on the first alone. Where the norm is
    not finite or `refused`, the gradients are dropped, and the optimizer then leaves every parameter as it is.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    counted = [
        p.grad
        for p in model.parameters()
        if p.grad is not None and (mesh.tp_rank == 0 or getattr(p, "tensor_model_parallel", False))
    ]
    squares = torch.stack(torch._foreach_norm(counted)).float().square().sum()
    if mesh.tensor_group is not None:
        dist.all_reduce(squares, group=mesh.tensor_group)
    norm = squares.sqrt()
    if not torch.isfinite(norm) or refused(norm):
        for parameter in model.parameters():
            parameter.grad = None
    elif clip_norm > 0:
        torch._foreach_mul_(gradients, (clip_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def above_on_any(norm: Tensor, limit: float | None, mesh: Mesh) -> bool:
    """Return on all ranks whether the norm is above the limit on any. Without a limit no rank is asked.

    Ranks sum the norm in groups, so their last digits may differ: none of them decides alone.
    """
    if limit is None:
        return False
    above = (norm > limit).float().reshape(1)
    if mesh.world > 1:
        dist.all_reduce(above, op=dist.ReduceOp.MAX)
    return bool(above)
