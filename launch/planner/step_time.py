"""The time of one optimizer step: rooflines of kernels, ring collectives, and a few rates fitted to published runs.

A product of matrices runs at a share of the GPU's peak and does not hide all of its reading and writing. Flash
attention runs at a share of its own. Elementwise kernels move bytes, more of them where they are not compiled. A ring
moves its bytes over its slowest link and takes a moment for each rank. What overlaps is stated where it is computed.
The rates and what they mean are in `launch/planner/rates.py`, how far off the result is in
docs/benchmarks/launching.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from launch.planner.compute import Compute
from launch.planner.rates import OPTIMIZER_BYTES, RATES, STEP, Rates
from launch.planner.shape import Way
from launch.planner.traffic import Traffic
from trainer.plan.gpus import Gpu
from trainer.plan.shape import Shape


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step by part. They add up."""

    matrices: float
    attention: float
    elementwise: float
    tensor: float  # all-reduces inside tensor groups
    sequence: float  # all-to-alls of sequence parallelism
    pipeline: float  # bubble and hand-over
    data: float  # gradients and parameters over data ranks, after overlap
    optimizer: float
    other: float  # loading, synchronising, logging

    @property
    def total(self) -> float:
        """Return the seconds of all parts."""
        return float(sum(asdict(self).values()))

    def by_part(self) -> dict[str, float]:
        """Return all parts and the total."""
        return {**asdict(self), "total": self.total}


def step_time(shape: Shape, way: Way, gpu: Gpu, parameters: int, rates: Rates = RATES) -> StepTime:
    """Return the time of one optimizer step. `parameters` are all distinct ones of the model."""
    compute, traffic = Compute(shape, way, gpu, rates), Traffic(shape, way, gpu, rates)
    matrices, attention, elementwise = compute.matrices(), compute.attention(), compute.elementwise()
    tensor, sequence = traffic.tensor(), traffic.sequence()
    computing = matrices + attention + elementwise
    n, held = way.accumulation, parameters / (way.tensor * way.pipeline)
    own = held / way.replicas if way.zero else held
    return StepTime(
        matrices=n * matrices,
        attention=n * attention,
        elementwise=n * elementwise,
        tensor=n * tensor,
        sequence=n * sequence,
        pipeline=(computing + tensor + sequence) * (way.pipeline - 1) / way.chunks + n * traffic.hand_over(),
        data=traffic.data(held, computing),
        optimizer=own * OPTIMIZER_BYTES / compute.bandwidth,
        other=STEP,
    )
