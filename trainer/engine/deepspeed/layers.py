"""Spread a plain model over tensor ranks: its plan decides which DeepSpeed layer takes the place of which module.

The model may hold values or lie on the meta device; either way a rank keeps only its share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from deepspeed.module_inject.layers import (
    ColumnParallel,
    LinearAllreduce,
    LinearLayer,
    RowParallel,
    SubParamLinearLayer,
    VocabParallelEmbedding,
    VocabParallelLinear,
    set_autotp_mode,
)
from torch import Tensor, nn

from trainer.config.model import ModelConfig
from trainer.parallel.fp8 import linear as fp8_linear
from trainer.parallel.mesh import Group, Mesh
from trainer.parallel.tensor.overlap import overlap_reduction
from trainer.parallel.tensor.split import kind_of, part_widths
from trainer.parallel.tensor.vocab_loss import VocabularyParallelLoss


def shard_model(
    model: nn.Module,
    plan: Mapping[str, str],
    config: ModelConfig,
    mesh: Mesh,
    *,
    overlap: bool = False,
    fp8: bool = False,
) -> None:
    """Replace the modules that the plan names by tensor-parallel ones, in place; nothing to do for one tensor rank.

    `overlap` has column-parallel layers reduce while they compute, `fp8` has the blocks' layers multiply in fp8.
    """
    if mesh.tensor_group is None:
        return
    set_autotp_mode(training=True)
    tied = config.tied_embeddings
    for name, module in list(model.named_modules()):
        kind = kind_of(plan, name)
        if kind not in (None, "shared heads") and not (tied and name == "embed"):
            assert kind is not None
            layer = _parallel_layer(module, kind, name, config, mesh.tensor_group)
            if overlap and kind.startswith("column"):
                overlap_reduction(layer, mesh.tensor_group)
            elif isinstance(module, nn.Linear):
                product = fp8_linear if fp8 and kind != "vocab" else _linear
                _multiply_by(product, layer, kind, mesh.tensor_group)
            _replace(model, name, layer)
    if tied:
        model.embed = VocabParallelEmbedding(model.embed, mesh.tensor_group, tied_vocab_parallel_linear=model.head)
    model.token_loss = VocabularyParallelLoss(mesh.tensor_group, mesh.tp_rank)  # type: ignore[assignment]


def _parallel_layer(module: nn.Module, kind: str, name: str, config: ModelConfig, group: Group) -> nn.Module:
    layers: dict[str, Any] = {"column": LinearLayer, "row": LinearAllreduce, "vocab": VocabParallelLinear}
    if isinstance(module, nn.Embedding):
        layer: nn.Module = VocabParallelEmbedding(module, group, name=name)
    elif kind in ("column qkv", "column pair"):
        assert isinstance(module, nn.Linear)
        parts = part_widths(kind, config, module.out_features)
        layer = SubParamLinearLayer(module, group, shape=(parts, -1), partition_dim=0, name=name)
    else:
        layer = layers[kind](module, group, name=name)
    return layer


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Look `F.linear` up anew: ZeRO 3 puts a function there that keeps no gathered matrix for the backward pass."""
    return F.linear(x, weight, bias)


def _multiply_by(product: Callable[..., Tensor], layer: nn.Module, kind: str, group: Group) -> None:
    """Have a layer take its product through a function like `F.linear`, in place.

    DeepSpeed's layers multiply in a way of their own, and under ZeRO 3 the whole model then stays gathered.
    """

    def column(layer: Any, x: Tensor) -> Tensor:
        return product(ColumnParallel.apply(group, x), layer.weight, layer.bias)  # type: ignore[no-untyped-call]

    def row(layer: Any, x: Tensor) -> Tensor:
        y: Tensor = RowParallel.apply(group, product(x, layer.weight), False)  # type: ignore[no-untyped-call]
        return y if layer.bias is None else y + layer.bias

    layer.forward = partial(row if kind == "row" else column, layer)


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
