"""What every tensor rank has whole and uses for its own share: its gradient is the sum of those of all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.parallel.mesh import Group


class _Copied(torch.autograd.Function):
    """DeepSpeed's `ColumnParallel` loses the sum where a gradient is not contiguous, such as a slice of another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)  # others may read the gradient too
        dist.all_reduce(summed, group=ctx.group)
        return summed, None


def copied(x: Tensor, group: Group) -> Tensor:
    """Return x, whose gradient is summed over the group."""
    y: Tensor = _Copied.apply(x, group)
    return y


def sum_output_gradient(module: nn.Module, group: Group) -> None:
    """Have the gradient of a module's outputs summed over the group, in place."""
    module.register_forward_hook(lambda module, inputs, outputs: copied(outputs, group))
