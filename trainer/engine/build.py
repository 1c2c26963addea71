"""From a model, whole, to an engine: split it over tensor ranks, give it values and an optimizer, shard the rest."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from trainer.config.parallel import check_model_splits
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.engine.compiled import can_compile, compile_parts
from trainer.engine.engine import Engine
from trainer.engine.protocol import Library
from trainer.engine.recompute import recompute_blocks
from trainer.models.common.head import LossTerms
from trainer.models.interface import LanguageModel
from trainer.parallel.fp8 import check_gpu, multiply_in_fp8
from trainer.parallel.mesh import Mesh
from trainer.parallel.sequence import shard_attention
from trainer.parallel.tensor.shard import cut_parameters, materialise, splits_of
from trainer.plan.compiling import compile_mode
from trainer.plan.deepspeed import NOT_INSTALLED
from trainer.plan.sharding import check_optimizer


def build_engine(
    config: RunConfig, model: LanguageModel, mesh: Mesh, *, lr: float, accumulation: int, device: torch.device
) -> Engine:
    """Spread `model` over the mesh and give it an optimizer.

    `model` is whole: with values, or on the meta device, in which case each rank makes its own share from the seed and
    the whole never exists. Raises `UserError` where the model's widths do not divide.
    """
    check_model_splits(config.model, mesh.degrees)
    check_optimizer(config)
    library = library_of(config.parallel.engine)
    library.prepare(device)
    splits = splits_of(model, mesh)
    fp8 = config.precision == "fp8"
    if fp8:
        check_gpu(device)
    library.share_layers(model, mesh, overlap=config.parallel.overlap, fp8=fp8)
    cut_parameters(model, splits)
    if fp8:
        multiply_in_fp8(model.blocks)
    materialise(model, splits, config.seed, device)
    shard_attention(model, mesh)
    recompute_blocks(model, config.parallel.recompute)
    model.loss_terms = LossTerms(config.optim.label_smoothing, config.optim.z_loss)
    mode = compile_mode(config, gpu=device.type == "cuda")
    if mode is not None and (config.parallel.compile != "auto" or can_compile(device)):
        compile_parts(model, mode)
    sharded = library.spread(model, config, mesh, splits, lr=lr, accumulation=accumulation, device=device)
    return Engine(sharded, config, mesh, splits, accumulation, device)


def library_of(engine: str) -> Library:
    """Return what shards a model, by the name of `parallel.engine`. Only the one that is used is imported."""
    if engine == "fsdp":
        from trainer.engine.fsdp import spread as fsdp

        return fsdp
    if find_spec("deepspeed") is None:
        raise UserError(NOT_INSTALLED)
    from trainer.engine.deepspeed import spread as deepspeed

    return deepspeed
