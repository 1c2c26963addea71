"""Shard a model with torch's `fully_shard` (FSDP2): the one place that calls it.

Units are the blocks, and what lies outside them; a model that is compiled as one program is one unit, for nothing can
be gathered inside of it. ZeRO's stages (Rajbhandari et al. 2020) are settings of it:

    1  parameters are gathered once a step; gradients are whole until the last micro-batch, and then sharded
    2  parameters are gathered once a step; gradients are sharded after each micro-batch
    3  parameters are gathered before each use, and gradients sharded after each micro-batch
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from trainer.config.run import RunConfig
from trainer.engine.fsdp.sharded import FsdpSharded
from trainer.engine.matrices import hold_spread
from trainer.models.interface import LanguageModel
from trainer.optim.build import make_optimizer
from trainer.parallel.fp8 import linear as fp8_linear
from trainer.parallel.mesh import Mesh
from trainer.parallel.tensor import layers
from trainer.parallel.tensor.split import Split
from trainer.plan.compiling import compile_mode
from trainer.plan.sharding import effective_stage, resolve_precision

# Losses leave the model as a view, which nobody writes into.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor", category=UserWarning)


def prepare(device: torch.device, backend: str | None = None) -> None:
    """Nothing must be told of the world that torch.distributed has joined."""


def share_layers(model: LanguageModel, mesh: Mesh, *, overlap: bool = False, fp8: bool = False) -> None:
    """Have the modules that the roles split compute with a rank's share."""
    layers.share_layers(model, mesh, overlap=overlap, product=fp8_linear if fp8 else F.linear)


def spread(
    model: LanguageModel,
    config: RunConfig,
    mesh: Mesh,
    splits: Mapping[str, Split],
    *,
    lr: float,
    accumulation: int,
    device: torch.device,
) -> FsdpSharded:
    """Return a model, whose tensor shares are in place, sharded over replicas. Its optimizer is made of the shards."""
    precision = resolve_precision(config.precision, gpu=device.type == "cuda")
    policy = MixedPrecisionPolicy()
    if precision == "bf16":  # shards stay fp32: they are the master weights; losses are fp32 as they leave the head
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    over = DeviceMesh.from_group(mesh.replica_group, device.type)
    again = config.parallel.zero_stage == 3
    whole = compile_mode(config, gpu=device.type == "cuda") in ("model", "graphs")
    for block in () if whole else model.blocks:
        fully_shard(block, mesh=over, reshard_after_forward=again, mp_policy=policy)
    fully_shard(model, mesh=over, reshard_after_forward=False, mp_policy=policy)
    stage = effective_stage(config, replicas=mesh.replica_size, precision=precision)
    optimizer = make_optimizer(config, model, splits, mesh, lr)
    sharded = FsdpSharded(model, optimizer, mesh, splits, stage, config.optim.clip_norm)
    hold_spread(optimizer, list(model.parameters()), sharded.fragments())
    return sharded
