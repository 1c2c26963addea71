"""Gradient norm and clipping where the library leaves both to us."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.parallel.mesh import Mesh


@torch.no_grad()
def gradient_norm(model: nn.Module, mesh: Mesh) -> Tensor:
    """Return the norm over the whole model.

    A split parameter's share counts on each tensor rank, a replicated one on the first alone.
    """
    counted = [
        p.grad
        for p in model.parameters()
        if p.grad is not None and (mesh.tp_rank == 0 or getattr(p, "tensor_model_parallel", False))
    ]
    squares = torch.stack(torch._foreach_norm(counted)).float().square().sum()
    if mesh.tensor_group is not None:
        dist.all_reduce(squares, group=mesh.tensor_group)
    return squares.sqrt()


@torch.no_grad()
def clip(gradients: Sequence[Tensor], norm: Tensor, clip_norm: float) -> None:
    """Scale gradients of this norm down to `clip_norm` (0: never), in place. The factor stays on the device."""
    if clip_norm > 0:
        torch._foreach_mul_(list(gradients), (clip_norm / (norm + 1e-6)).clamp(max=1.0))
