"""Column-parallel products whose backward all-reduce runs while the weight's gradient is computed.

The gradient of the input must be summed over tensor ranks; that of the weight need not, so it can be made meanwhile
(Megatron-LM does the same). DeepSpeed's own version leaves out fused matrices and is wrong for biases.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.parallel.mesh import Group


class _OverlappedColumn(torch.autograd.Function):
    """x (B, T, D), weight (W, D), bias (W) or None: x weight' + bias, (B, T, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, group: Group) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.group, ctx.has_bias = group, bias is not None
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        d_x = gradients[0] @ weight
        summed = dist.all_reduce(d_x, group=ctx.group, async_op=True)
        flat = gradients[0].flatten(0, -2)
        d_weight = flat.t() @ x.flatten(0, -2)
        d_bias = flat.sum(0) if ctx.has_bias else None
        assert summed is not None
        summed.wait()
        return d_x, d_weight, d_bias, None


def overlap_reduction(layer: nn.Module, group: Group) -> None:
    """Have a column-parallel layer overlap its reduction, in place."""

    def forward(layer: Any, x: Tensor) -> Tensor:
        y: Tensor = _OverlappedColumn.apply(x, layer.weight, layer.bias, group)  # type: ignore[no-untyped-call]
        return y

    layer.forward = partial(forward, layer)  # type: ignore[method-assign, assignment]
