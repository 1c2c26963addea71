"""Hand a model to DeepSpeed: the one place that initialises it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping

import deepspeed
import torch
from deepspeed.ops import __compatible_ops__ as compatible_ops

from trainer.config.run import RunConfig
from trainer.engine.deepspeed import internals
from trainer.engine.deepspeed.layers import share_layers
from trainer.engine.deepspeed.mpu import Topology
from trainer.engine.deepspeed.optimizer import host_adam
from trainer.engine.deepspeed.sharded import DeepSpeedSharded
from trainer.engine.matrices import hold_spread
from trainer.models.interface import LanguageModel
from trainer.optim.build import make_optimizer
from trainer.parallel.mesh import Mesh, limit_every_wait
from trainer.parallel.tensor.shard import sum_shared_gradients
from trainer.parallel.tensor.split import Split
from trainer.plan.deepspeed import deepspeed_config
from trainer.plan.sharding import effective_stage, resolve_precision

__all__ = ["prepare", "share_layers", "spread", "without_compiled_collectives"]

# DeepSpeed 0.19.8 calls collectives by names that torch 2.13 is about to rename: one line for each call is no news.
warnings.filterwarnings("ignore", message=".*is deprecated. Please use.*_single", category=FutureWarning)


def prepare(device: torch.device, backend: str | None = None) -> None:
    """Tell DeepSpeed of the world that torch.distributed has joined. Call it before any of its layers is made.

    On a CPU, DeepSpeed would first compile collectives over shared memory: minutes, with g++ and ninja.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        without_compiled_collectives()
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def without_compiled_collectives() -> None:
    """Keep DeepSpeed on a CPU from compiling its shared-memory collectives, which nothing here needs."""
    compatible_ops["deepspeed_shm_comm"] = False


def spread(
    model: LanguageModel,
    config: RunConfig,
    mesh: Mesh,
    splits: Mapping[str, Split],
    *,
    lr: float,
    accumulation: int,
    device: torch.device,
) -> DeepSpeedSharded:
    """Return a model, whose tensor shares are in place, and its optimizer, sharded over replicas by ZeRO."""
    sum_shared_gradients(model, mesh)
    if config.parallel.offload != "none" and device.type == "cuda" and config.optim.name == "adamw":
        optimizer = host_adam(model, config.optim, lr)
    else:
        optimizer = make_optimizer(config, model, splits, mesh, lr)
    precision = resolve_precision(config.precision, gpu=device.type == "cuda")
    stage = effective_stage(config, replicas=mesh.replica_size, precision=precision)
    internals.skip_slow_checks()
    ds, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        mpu=Topology(mesh),
        config=deepspeed_config(config, stage=stage, accumulation=accumulation, precision=precision),
        dist_init_required=False,
    )
    limit_every_wait(mesh.timeout)
    if stage in (1, 2) and config.parallel.offload == "none":
        change = internals.step_on_gradients_in_place if stage == 1 else internals.keep_owned_gradients_only
        change(ds.optimizer)
    ds.enable_backward_allreduce = stage > 0
    offloads = config.parallel.offload != "none"
    sharded = DeepSpeedSharded(ds, mesh, stage, config.optim.clip_norm, offloads=offloads)
    if stage:
        hold_spread(optimizer, internals.homes(ds, stage), sharded.fragments())
    return sharded
