"""Every layout of a run on a cluster: what a rank holds, how long a step takes, and why some do not fit.

found = layouts(config, world=64, gpu="H100-SXM")
found.best            the fastest that fits
found.ranked          all that fit, fastest first
found.refused         those that do not, with the reason
found.to_json()
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from launch.planner.gpus import Gpu, find_gpu
from launch.planner.memory import USABLE, gpu_memory
from launch.planner.step_time import Shape, StepTime, Way, step_time
from trainer.config.counting import count_flops, count_parameters
from trainer.config.fp8 import check_capability, check_fp8
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig, check_model_splits, resolve_degrees
from trainer.config.plan import total_steps
from trainer.config.run import RunConfig
from trainer.errors import UserError

RECOMPUTE = ("none", "selective", "full")


@dataclass(frozen=True)
class Layout:
    """One way to run a model on a cluster."""

    data: int
    sequence: int
    tensor: int
    zero_stage: int
    micro_batch: int
    accumulation: int
    recompute: str

    def __str__(self) -> str:
        return (
            f"data {self.data} x sequence {self.sequence} x tensor {self.tensor}, ZeRO {self.zero_stage}, "
            f"micro-batch {self.micro_batch} x {self.accumulation}, recompute {self.recompute}"
        )

    def settings(self) -> list[str]:
        """Return the `--set` assignments that make a run use this layout."""
        return [
            f"parallel.data={self.data}",
            f"parallel.sequence={self.sequence}",
            f"parallel.tensor={self.tensor}",
            f"parallel.zero_stage={self.zero_stage}",
            f"parallel.recompute={self.recompute}",
            f"batch.micro_batch={self.micro_batch}",
        ]


@dataclass(frozen=True)
class Estimate:
    """What a layout costs. Memory in bytes of one rank, time in seconds of one step."""

    layout: Layout
    memory: dict[str, int]
    time: StepTime
    tokens_per_second: float
    mfu: float  # model FLOPs, without recomputation, over the peak of all GPUs
    hours: float  # of the whole run
    cost: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **asdict(self.layout),
            "memory_bytes": self.memory,
            "step_seconds": self.time.by_part(),
            "tokens_per_second": self.tokens_per_second,
            "mfu": self.mfu,
            "hours": self.hours,
            "cost": self.cost,
        }


@dataclass(frozen=True)
class Refused:
    """A layout that does not work, and why."""

    layout: str
    reason: str


@dataclass(frozen=True)
class Layouts:
    """All layouts of one run on one cluster."""

    gpu: Gpu
    world: int
    usable_bytes: int
    ranked: tuple[Estimate, ...]
    refused: tuple[Refused, ...]

    @property
    def best(self) -> Estimate:
        """The fastest that fits. Raises UserError, with the smallest that was tried, when none does."""
        if not self.ranked:
            closest = self.refused[0] if self.refused else Refused("no layout", "the degrees do not divide the world")
            raise UserError(
                f"no layout fits on {self.world} x {self.gpu.name} ({self.usable_bytes / 2**30:.0f} GiB usable each). "
                f"Closest: {closest.layout}: {closest.reason}. Use more GPUs, larger ones, or a shorter context_length"
            )
        return self.ranked[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, best first."""
        return {
            "gpu": self.gpu.name,
            "world": self.world,
            "usable_bytes": self.usable_bytes,
            "layouts": [estimate.to_json() for estimate in self.ranked],
            "refused": [asdict(refused) for refused in self.refused],
        }


def layouts(
    config: RunConfig, *, world: int, gpu: str, ranks_per_node: int | None = None, price: float | None = None
) -> Layouts:
    """Return every layout of a run whose vocabulary is known, on `world` GPUs.

    `price` is that of one GPU for an hour. Raises UserError for an unknown GPU, and for one without fp8 where the run
    asks for it.
    """
    kind = find_gpu(gpu)
    if config.precision == "fp8":
        check_capability(kind.name, kind.capability)
    node = ranks_per_node or min(kind.per_node, world)
    usable = int(kind.memory * USABLE)
    ranked, refused, tight = [], [], []
    for degrees in _degrees(world):
        try:
            resolved = resolve_degrees(degrees, world)
            check_model_splits(config.model, resolved)
            micro_batches = _micro_batches(config, resolved.data)
            if config.precision == "fp8":
                check_fp8(config.model, resolved, micro_batch=micro_batches[0][0], gpu=True)
        except UserError as error:
            refused.append(Refused(f"sequence {degrees.sequence} x tensor {degrees.tensor}", str(error)))
            continue
        for layout in _variants(degrees, world, micro_batches):
            memory = gpu_memory(config.model, layout_config(layout), micro_batch=layout.micro_batch, data=layout.data)
            if memory["total"] > usable:
                tight.append((memory["total"], layout))
            else:
                ranked.append(_estimate(config, layout, memory, kind, node, price))
    ranked.sort(key=lambda estimate: (estimate.time.total, estimate.layout.tensor, estimate.memory["total"]))
    too_big = [
        Refused(str(layout), f"needs {total / 2**30:.1f} GiB a rank, {usable / 2**30:.1f} are usable")
        for total, layout in sorted(tight, key=lambda pair: pair[0])
    ]
    return Layouts(kind, world, usable, tuple(ranked), tuple(too_big + refused))


def layout_config(layout: Layout) -> ParallelConfig:
    """Return the parallel section that stands for a layout."""
    return ParallelConfig(
        data=layout.data,
        sequence=layout.sequence,
        tensor=layout.tensor,
        zero_stage=layout.zero_stage,  # type: ignore[arg-type]
        recompute=layout.recompute,  # type: ignore[arg-type]
    )


def shape_of(model: ModelConfig) -> Shape:
    """Return what the time of a step depends on."""
    return Shape(
        D=model.d_model,
        F=model.ff_width,
        L=model.n_layers,
        H=model.n_heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        V=model.vocab_rows,
        T=model.context_length,
        gated=model.mlp == "swiglu",
    )


def _degrees(world: int) -> Iterator[ParallelConfig]:
    """Yield the tensor and sequence degrees that divide the world. Beyond 64 none was ever of use."""
    divisors = [d for d in range(1, min(world, 64) + 1) if world % d == 0]
    for tensor, sequence in product(divisors, divisors):
        if world % (tensor * sequence) == 0:
            yield ParallelConfig(tensor=tensor, sequence=sequence)


def _micro_batches(config: RunConfig, data: int) -> list[tuple[int, int]]:
    """Return (micro-batch, accumulation) pairs. Raises UserError where the batch cannot be shared."""
    sequences = config.batch.tokens_per_step // config.model.context_length
    if sequences % data:
        raise UserError(f"{sequences} sequences per step cannot be shared by {data} data-parallel ranks")
    share = sequences // data
    if config.batch.micro_batch is not None:
        sizes = [config.batch.micro_batch]
    else:
        sizes = [2**k for k in range(share.bit_length())] + [share]
    pairs = sorted({(size, share // size) for size in sizes if size <= share and share % size == 0})
    if not pairs:
        raise UserError(f"batch.micro_batch {sizes[0]} does not divide the {share} sequences of a data-parallel rank")
    return pairs


def _variants(degrees: ParallelConfig, world: int, micro_batches: list[tuple[int, int]]) -> Iterator[Layout]:
    data = world // (degrees.tensor * degrees.sequence)
    stages = (0, 1, 2, 3) if data * degrees.sequence > 1 else (0, 1)
    for zero, (micro_batch, accumulation), recompute in product(stages, micro_batches, RECOMPUTE):
        yield Layout(data, degrees.sequence, degrees.tensor, zero, micro_batch, accumulation, recompute)


def _estimate(
    config: RunConfig, layout: Layout, memory: dict[str, int], gpu: Gpu, node: int, price: float | None
) -> Estimate:
    way = Way(
        data=layout.data,
        tensor=layout.tensor,
        sequence=layout.sequence,
        zero=layout.zero_stage,
        micro_batch=layout.micro_batch,
        accumulation=layout.accumulation,
        recompute=layout.recompute,
        ranks_per_node=node,
    )
    time = step_time(shape_of(config.model), way, gpu, count_parameters(config.model).total)
    tokens_per_second = config.batch.tokens_per_step / time.total
    hours = total_steps(config) * time.total / 3600
    mfu = tokens_per_second * count_flops(config.model).total / (gpu.flops * way.world)
    cost = None if price is None else hours * way.world * price
    return Estimate(layout, memory, time, tokens_per_second, mfu, hours, cost)
