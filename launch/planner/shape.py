"""How a model is spread and run, and its shape as the planner asks for it."""

from __future__ import annotations

from dataclasses import dataclass

from launch.planner.rates import CAST_BYTES, FUSED_CAST_BYTES, FUSED_LOSS_BYTES, LOSS_BYTES
from trainer.config.model import ModelConfig
from trainer.config.parallel import Degrees
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.models.registry import cost_of
from trainer.plan.batch import BatchPlan
from trainer.plan.compiling import compile_mode
from trainer.plan.logits import chunked
from trainer.plan.shape import Shape


@dataclass(frozen=True)
class Way:
    """How a model is spread and run."""

    data: int
    tensor: int = 1
    sequence: int = 1
    pipeline: int = 1
    chunks: int = 1  # of layers on each pipeline stage, interleaved
    zero: int = 1
    micro_batch: int = 1
    accumulation: int = 1
    recompute: str = "none"
    precision: str = "bf16"  # or fp32, fp8
    compiled: bool = False  # elementwise kernels are fused
    flash: bool = True  # scores never reach memory
    chunked_head: bool = False  # logits are made in chunks, and made again in the backward pass
    loss_bytes: int = LOSS_BYTES
    cast_bytes: int = CAST_BYTES
    overlap: bool = False  # data-parallel traffic runs beside compute
    tensor_overlap: float = 0.0  # share of the tensor groups' all-reduces that runs beside compute
    reduce_bytes: int = 2  # of one element of a gradient on its way
    ranks_per_node: int = 8

    @property
    def world(self) -> int:
        """Return the number of GPUs."""
        return self.data * self.tensor * self.sequence * self.pipeline

    @property
    def replicas(self) -> int:
        """Ranks over which ZeRO shards: sequence ranks hold the same parameters as data ranks."""
        return self.data * self.sequence

    @property
    def passes(self) -> int:
        """Forward, twice that backward, and forward again with full recomputation."""
        return 4 if self.recompute == "full" else 3

    @property
    def value(self) -> int:
        """Bytes of one activation or gathered parameter."""
        return 4 if self.precision == "fp32" else 2


def shape_of(model: ModelConfig) -> Shape:
    """Return the shape of a model whose vocabulary is known. Raises `UserError` for a family that has none yet."""
    cost = cost_of(model.family)
    if not hasattr(cost, "step_shape"):
        raise UserError(f"the planner has no model of a step's time for the family {model.family!r} yet")
    shape: Shape = cost.step_shape(model)
    return shape


def way_of(config: RunConfig, degrees: Degrees, batch: BatchPlan, *, zero: int, ranks_per_node: int) -> Way:
    """Return how our runtime runs a configuration on GPUs at an effective ZeRO stage.

    Gradients are reduced beside the backward pass at stage 0 (trainer/engine/reduction.py) and gathering is hidden
    at stage 3 (DeepSpeed's default); stages 1 and 2 do neither. Stage 0 reduces in float32, DeepSpeed in bf16.
    """
    parallel, model = config.parallel, config.model
    fp32 = config.precision == "fp32"
    tokens = batch.micro_batch * model.context_length // degrees.sequence
    all_reduces = 6 if parallel.recompute == "full" else 4
    chunked_head = degrees.tensor == 1 and chunked(tokens * model.vocab_rows, width=model.head_width, gpu=True)
    compiled = compile_mode(config, gpu=True)
    return Way(
        data=degrees.data,
        tensor=degrees.tensor,
        sequence=degrees.sequence,
        zero=zero,
        micro_batch=batch.micro_batch,
        accumulation=batch.accumulation,
        recompute=parallel.recompute,
        precision="bf16" if config.precision == "auto" else config.precision,
        compiled=compiled is not None,
        chunked_head=chunked_head,
        loss_bytes=FUSED_LOSS_BYTES if compiled is not None and not chunked_head else LOSS_BYTES,
        cast_bytes=CAST_BYTES if compiled is None else FUSED_CAST_BYTES,
        overlap=zero in (0, 3),
        tensor_overlap=2 / all_reduces if parallel.overlap else 0.0,  # of the two column-parallel layers, backward
        reduce_bytes=4 if zero == 0 or fp32 else 2,
        ranks_per_node=ranks_per_node,
    )
