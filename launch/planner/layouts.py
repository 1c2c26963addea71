"""Every layout of a run on a cluster: what a rank holds, how long a step takes, and why some do not work.

found = layouts(config, world=64, gpu="H100-SXM")
found.best            the fastest that fits
found.ranked          all that fit, fastest first
found.refused         those that do not, with the reason
found.notes           what the user should know or could set
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import product

from launch.planner.expected import step_on_gpus
from launch.planner.layout import Estimate, Layout, Refused
from launch.planner.notes import notes
from trainer.config.base import parse_section
from trainer.config.parallel import Degrees, ParallelConfig, check_model_splits
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.plan.batch import BatchPlan, plan_batch
from trainer.plan.compiling import check_compile, check_graphs
from trainer.plan.counting import count_flops
from trainer.plan.fp8 import check_capability, check_fp8
from trainer.plan.gpus import Gpu, find_gpu
from trainer.plan.length import total_steps
from trainer.plan.plan import run_memory
from trainer.plan.sharding import check_optimizer

RECOMPUTE = ("none", "selective", "full")
REASONS = 3  # of layouts that do not work, told where none does
MOST_SPLITS = 64  # tensor or sequence ranks: more were never of use


@dataclass(frozen=True)
class Layouts:
    """All layouts of one run on one cluster."""

    gpu: Gpu
    world: int
    ranked: tuple[Estimate, ...]
    too_big: tuple[Refused, ...]  # those that need the least memory first
    impossible: tuple[Refused, ...]
    notes: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[Refused, ...]:
        """All that do not work."""
        return self.too_big + self.impossible

    @property
    def best(self) -> Estimate:
        """The fastest that fits. Raises UserError, with the closest that was tried and what to change, if none does."""
        if self.ranked:
            return self.ranked[0]
        cluster = f"{self.world} x {self.gpu.name}"
        if self.too_big:
            closest = self.too_big[0]
            raise UserError(
                f"no layout fits on {cluster} ({self.gpu.usable / 2**30:.0f} GiB usable each). Closest: "
                f"{closest.layout}: {closest.reason}. "
                + " ".join([*self.notes, "Use more GPUs, larger ones, or a shorter context_length"])
            )
        reasons = [f"{refused.layout}: {refused.reason}" for refused in self.impossible]
        raise UserError(f"no layout works on {cluster}: " + (" ".join(self.notes) or "; ".join(reasons[:REASONS])))

    def to_json(self) -> dict[str, object]:
        """Return plain values, best first."""
        return {
            "gpu": self.gpu.name,
            "world": self.world,
            "usable_bytes": self.gpu.usable,
            "layouts": [estimate.to_json() for estimate in self.ranked],
            "refused": [asdict(refused) for refused in self.refused],
            "notes": list(self.notes),
        }


def layouts(
    config: RunConfig, *, world: int, gpu: str, ranks_per_node: int | None = None, price: float | None = None
) -> Layouts:
    """Return every layout of a run whose vocabulary is known, on `world` GPUs.

    `price` is that of one GPU for an hour. Raises UserError for an unknown GPU, for one without fp8 where the run asks
    for it, and where a step is no whole number of sequences.
    """
    kind = find_gpu(gpu)
    cluster = Cluster(kind, world, ranks_per_node or min(kind.per_node, world), price)
    found = search(config, cluster)
    return replace(found, notes=tuple(notes(config, found, lambda other: search(other, cluster))))


@dataclass(frozen=True)
class Cluster:
    """So many GPUs of one kind, by the node, and what one costs for an hour."""

    gpu: Gpu
    world: int
    ranks_per_node: int
    price: float | None = None


def search(config: RunConfig, cluster: Cluster) -> Layouts:
    """Return the layouts of a run on a cluster, without notes."""
    if config.precision == "fp8":
        check_capability(cluster.gpu.name, cluster.gpu.capability)
    plan_batch(config.batch.tokens_per_step, config.model.context_length, 1, None)
    found = _Found(config, cluster)
    for tensor, sequence in _splits(cluster.world):
        degrees = Degrees(cluster.world // (tensor * sequence), sequence, tensor)
        try:
            check_model_splits(config.model, degrees)
            batches = _batches(config, degrees.data)
        except UserError as error:
            found.impossible.append(Refused(f"sequence {sequence} x tensor {tensor}", str(error)))
            continue
        stages = (0, 1, 2, 3) if degrees.data * sequence > 1 else (0, 1)
        for stage, recompute in product(stages, RECOMPUTE):
            found.try_layouts(degrees, stage, recompute, batches)
    return found.sorted()


@dataclass
class _Found:
    config: RunConfig
    cluster: Cluster
    fits: list[Estimate] = field(default_factory=list)
    too_big: list[tuple[int, Layout]] = field(default_factory=list)
    impossible: list[Refused] = field(default_factory=list)

    def try_layouts(self, degrees: Degrees, stage: int, recompute: str, batches: list[BatchPlan]) -> None:
        """Estimate the layouts that differ in their micro-batch only."""
        layout = Layout(degrees.data, degrees.sequence, degrees.tensor, stage, 0, 0, recompute)
        try:
            run = with_parallel(self.config, layout)
        except UserError as error:
            self._refuse(f"sequence {degrees.sequence} x tensor {degrees.tensor}, ZeRO {stage}", str(error))
            return
        for batch in batches:
            one = replace(layout, micro_batch=batch.micro_batch, accumulation=batch.accumulation)
            memory = run_memory(run, degrees, batch, gpu=True).by_part()
            if memory["total"] > self.cluster.gpu.usable:
                self.too_big.append((memory["total"], one))
                continue
            try:
                check_graphs(run, degrees, batch, gpu=True)
                if run.precision == "fp8":
                    check_fp8(run.model, degrees, micro_batch=batch.micro_batch, gpu=True)
            except UserError as error:
                self._refuse(f"sequence {degrees.sequence} x tensor {degrees.tensor}", str(error))
                continue
            self.fits.append(_estimate(run, one, degrees, batch, memory, self.cluster))

    def _refuse(self, layout: str, reason: str) -> None:
        refused = Refused(layout, reason)
        if refused not in self.impossible:
            self.impossible.append(refused)

    def sorted(self) -> Layouts:
        """Return what was found, the fastest first."""
        ranked = sorted(self.fits, key=lambda e: (e.time.total, e.layout.tensor, e.memory["total"]))
        usable = self.cluster.gpu.usable / 2**30
        too_big = [
            Refused(str(layout), f"needs {total / 2**30:.1f} GiB a rank, {usable:.1f} are usable")
            for total, layout in sorted(self.too_big, key=lambda pair: pair[0])
        ]
        return Layouts(self.cluster.gpu, self.cluster.world, tuple(ranked), tuple(too_big), tuple(self.impossible))


def with_parallel(config: RunConfig, layout: Layout) -> RunConfig:
    """Return the run with a layout's parallel section. Raises UserError where its other settings forbid that."""
    values = {
        **config.parallel.model_dump(),
        "data": layout.data,
        "sequence": layout.sequence,
        "tensor": layout.tensor,
        "zero_stage": layout.zero_stage,
        "recompute": layout.recompute,
    }
    run = config.model_copy(update={"parallel": parse_section(ParallelConfig, values, "parallel")})
    check_optimizer(run)
    check_compile(run)
    return run


def _splits(world: int) -> Iterator[tuple[int, int]]:
    """Yield the tensor and sequence degrees that divide the world."""
    divisors = [d for d in range(1, min(world, MOST_SPLITS) + 1) if world % d == 0]
    for tensor, sequence in product(divisors, divisors):
        if world % (tensor * sequence) == 0:
            yield tensor, sequence


def _batches(config: RunConfig, data: int) -> list[BatchPlan]:
    """Return all ways to cut a rank's share into equal micro-batches. Raises UserError where there is none."""
    tokens, context = config.batch.tokens_per_step, config.model.context_length
    if config.batch.micro_batch is not None:
        return [plan_batch(tokens, context, data, config.batch.micro_batch)]
    share = plan_batch(tokens, context, data, None).sequences_per_rank
    return [plan_batch(tokens, context, data, size) for size in range(1, share + 1) if share % size == 0]


def _estimate(
    run: RunConfig, layout: Layout, degrees: Degrees, batch: BatchPlan, memory: dict[str, int], cluster: Cluster
) -> Estimate:
    time = step_on_gpus(run, degrees, batch, cluster.gpu, ranks_per_node=cluster.ranks_per_node)
    tokens_per_second = run.batch.tokens_per_step / time.total
    hours = total_steps(run) * time.total / 3600
    mfu = tokens_per_second * count_flops(run.model).total / (cluster.gpu.flops * cluster.world)
    cost = None if cluster.price is None else hours * cluster.world * cluster.price
    return Estimate(layout, memory, time, tokens_per_second, mfu, hours, cost)
