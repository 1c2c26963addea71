"""One layout of a run, what it costs, or why it does not work."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from launch.planner.step_time import StepTime


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

    def to_json(self) -> dict[str, object]:
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
