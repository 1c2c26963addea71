"""Spread a plain model over tensor ranks: roles decide which DeepSpeed layer takes the place of which module.

The model may hold values or lie on the meta device; either way a rank keeps only its share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from deepspeed.module_inject.layers import (
    LinearAllreduce,
    LinearLayer,
    RowParallel,
    SubParamLinearLayer,
    VocabParallelEmbedding,
    VocabParallelLinear,
    set_autotp_mode,
)
from torch import Tensor, nn

from trainer.models.interface import LanguageModel
from trainer.models.roles import WHOLE, Role, split_of_module
from trainer.parallel.fp8 import linear as fp8_linear
from trainer.parallel.mesh import Group, Mesh
from trainer.parallel.tensor.copied import copied, sum_output_gradient
from trainer.parallel.tensor.overlap import overlap_reduction
from trainer.parallel.tensor.vocab_loss import VocabularyParallelLoss


def share_layers(model: LanguageModel, mesh: Mesh, *, overlap: bool = False, fp8: bool = False) -> None:
    """Replace the modules that the roles split by tensor-parallel ones, in place; nothing to do for one tensor rank.

    `overlap` has column-parallel layers reduce while they compute, `fp8` has the blocks' layers multiply in fp8.
    """
    if mesh.tensor_group is None:
        return
    set_autotp_mode(training=True)
    tied = model.config.tied_embeddings
    for name, module in list(model.named_modules()):
        role = split_of_module(model.roles, name)
        if role is None or not isinstance(module, nn.Linear | nn.Embedding) or (tied and name == "embed"):
            continue
        if role.split == "shared outputs":
            sum_output_gradient(module, mesh.tensor_group)
        if role.split in WHOLE:
            continue
        layer = _parallel_layer(module, role, name, mesh.tensor_group)
        if overlap and role.split == "column":
            overlap_reduction(layer, mesh.tensor_group)
        elif isinstance(module, nn.Linear):
            product = fp8_linear if fp8 and role.split != "vocab" else _linear
            _multiply_by(product, layer, role.split == "row", mesh.tensor_group)
        _replace(model, name, layer)
    if tied:
        model.embed = VocabParallelEmbedding(model.embed, mesh.tensor_group, tied_vocab_parallel_linear=model.head)
    model.token_loss = VocabularyParallelLoss(mesh.tensor_group, mesh.tp_rank)


def _parallel_layer(module: nn.Module, role: Role, name: str, group: Group) -> nn.Module:
    layers: dict[str | None, Any] = {"column": LinearLayer, "row": LinearAllreduce, "vocab": VocabParallelLinear}
    if isinstance(module, nn.Embedding):
        layer: nn.Module = VocabParallelEmbedding(module, group, name=name)
    elif role.parts:
        layer = SubParamLinearLayer(module, group, shape=(role.parts, -1), partition_dim=0, name=name)
    else:
        layer = layers[role.split](module, group, name=name)
    return layer


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Look `F.linear` up anew: ZeRO 3 puts a function there that keeps no gathered matrix for the backward pass."""
    return F.linear(x, weight, bias)


def _multiply_by(product: Callable[..., Tensor], layer: nn.Module, is_row: bool, group: Group) -> None:
    """Have a layer take its product through a function like `F.linear`, in place.

    DeepSpeed's layers multiply in a way of their own, and under ZeRO 3 the whole model then stays gathered.
    """

    def column(layer: Any, x: Tensor) -> Tensor:
        return product(copied(x, group), layer.weight, layer.bias)

    def row(layer: Any, x: Tensor) -> Tensor:
        y: Tensor = RowParallel.apply(group, product(x, layer.weight), False)  # type: ignore[no-untyped-call]
        return y if layer.bias is None else y + layer.bias

    layer.forward = partial(row if is_row else column, layer)


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
