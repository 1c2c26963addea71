"""Layers of which each tensor rank holds a share, in plain torch: column, row, and the vocabulary's tables.

As in Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053, section 3). The modules stay what they are; only what they
compute changes, and `cut_parameters` gives each rank its share of their weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.interface import LanguageModel
from trainer.models.roles import WHOLE, Role, split_of_module
from trainer.parallel.mesh import Group, Mesh
from trainer.parallel.tensor.copied import copied, sum_output_gradient
from trainer.parallel.tensor.overlap import overlap_reduction
from trainer.parallel.tensor.vocab_loss import VocabularyParallelLoss

Product = Callable[[Tensor, Tensor], Tensor]


class _Summed(torch.autograd.Function):
    """The sum of the ranks' parts; every rank's part has the whole gradient."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Group) -> Tensor:
        whole = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def share_layers(model: LanguageModel, mesh: Mesh, *, overlap: bool = False, product: Product = F.linear) -> None:
    """Have the modules that the roles split compute with a rank's share, in place; nothing to do for one tensor rank.

    `overlap` has column-parallel layers reduce while they compute. `product` is a function like `F.linear` by which
    the blocks' layers multiply.
    """
    if mesh.tensor_group is None:
        return
    for name, module in model.named_modules():
        role = split_of_module(model.roles, name)
        if role is None or not isinstance(module, nn.Linear | nn.Embedding):
            continue
        if role.split == "shared outputs":
            sum_output_gradient(module, mesh.tensor_group)
        if role.split in WHOLE:
            continue
        if overlap and role.split == "column":
            overlap_reduction(module, mesh.tensor_group)
        else:
            module.forward = _forward(module, role, mesh.tensor_group, mesh.tp_rank, product)  # type: ignore[method-assign]
    model.token_loss = VocabularyParallelLoss(mesh.tensor_group, mesh.tp_rank)


def _forward(module: nn.Module, role: Role, group: Group, tp_rank: int, product: Product) -> Callable[..., Tensor]:
    """Return what a module with a share of its weight computes."""
    if isinstance(module, nn.Embedding):
        return partial(_embed, module, group, tp_rank)
    multiply = F.linear if role.split == "vocab" else product
    return partial(_row if role.split == "row" else _column, module, group, multiply)


def _column(module: Any, group: Group, product: Product, x: Tensor) -> Tensor:
    y = product(copied(x, group), module.weight)
    return y if module.bias is None else y + module.bias


def _row(module: Any, group: Group, product: Product, x: Tensor) -> Tensor:
    y: Tensor = _Summed.apply(product(x, module.weight), group)  # type: ignore[no-untyped-call]
    return y if module.bias is None else y + module.bias


def _embed(module: Any, group: Group, tp_rank: int, ids: Tensor) -> Tensor:
    """Look the words of this rank up; the others are another rank's."""
    words = module.weight.shape[0]
    local = ids - tp_rank * words
    outside = (local < 0) | (local >= words)
    found = F.embedding(local.masked_fill(outside, 0), module.weight).masked_fill(outside.unsqueeze(-1), 0.0)
    y: Tensor = _Summed.apply(found, group)  # type: ignore[no-untyped-call]
    return y
