"""Products of the blocks' linear layers in 8-bit floats, for GPUs whose tensor cores have them (Hopper and later).

Operands are cast to fp8 with one scale a tensor, taken from the tensor itself; the product is summed in float32 and
leaves as bf16. The forward pass uses E4M3, gradients use E5M2, which has more range (Micikevicius et al. 2022, arXiv
2209.05433). Weights, optimizer, attention, norms, embedding and head are as in bf16.

Shapes: M tokens of a batch in one row, K inputs, N outputs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.contract.errors import UserError
from trainer.plan.fp8 import NO_GPU, check_capability

FORWARD, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2


def check_gpu(device: torch.device) -> None:
    """Raise `UserError` where the device has no fp8 tensor cores, with what was found."""
    if device.type != "cuda":
        raise UserError(NO_GPU)
    check_capability(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))


def to_fp8(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x in fp8 and the factor, float32, that scales it back. The largest value becomes the largest of `kind`.

    What is not finite stays so: an infinite or undefined largest value makes every product NaN.
    """
    largest = torch.finfo(kind).max
    size = x.detach().abs().amax().float().clamp_min(1e-12)
    return (x.float() * (largest / size)).clamp(-largest, largest).to(kind), size / largest


def scaled_product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Return a (M, K) times b (N, K) transposed, in bf16, for pairs of fp8 values and factors.

    The tensor cores want the dimension that is summed over to be the inner one of both.
    """
    (x, x_scale), (w, w_scale) = a, b
    product: Tensor = torch._scaled_mm(
        x.contiguous(), w.contiguous().t(), scale_a=x_scale, scale_b=w_scale, out_dtype=torch.bfloat16
    )
    return product


class _Product(torch.autograd.Function):
    """x (M, K) times weight (N, K) transposed: (M, N). The three products of both passes are in fp8."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        values, scale = to_fp8(x, FORWARD)
        ctx.save_for_backward(values, scale, weight)
        ctx.dtype = x.dtype
        return scaled_product((values, scale), to_fp8(weight, FORWARD))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, x_scale, weight = ctx.saved_tensors
        g, g_scale = to_fp8(gradients[0], GRADIENT)
        w, w_scale = to_fp8(weight, FORWARD)
        d_x = scaled_product((g, g_scale), (w.t(), w_scale))
        d_weight = scaled_product((g.t(), g_scale), (x.t(), x_scale))
        return d_x.to(ctx.dtype), d_weight.to(weight.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x (..., K) times weight (N, K) transposed, plus bias (N), as `F.linear` does, in bf16."""
    product: Tensor = _Product.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])  # type: ignore[no-untyped-call]
    return product if bias is None else product + bias.to(product.dtype)


def multiply_in_fp8(blocks: nn.Module) -> None:
    """Have the plain linear layers of the blocks multiply in fp8, in place; tensor-parallel ones are given `linear`."""

    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        return linear(x, layer.weight, layer.bias)

    for module in blocks.modules():
        if type(module) is nn.Linear:
            module.forward = partial(forward, module)  # type: ignore[method-assign]
