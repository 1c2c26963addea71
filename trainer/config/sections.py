"""The smaller sections of a run: batch, length, checkpoints, evaluation, tracking, guard."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.config.base import Section
from trainer.config.span import Count, Span, SpanField


class BatchConfig(Section):
    """The global batch is given in tokens; micro-batch and accumulation follow from the world."""

    tokens_per_step: Count = Field(gt=0)
    micro_batch: int | None = Field(
        None, gt=0, description="sequences of one forward pass on one rank; default: derived"
    )


class CheckpointConfig(Section):
    """When checkpoints are written, which are kept, and what a starting run does with those that it finds."""

    every: SpanField | None = None
    minutes: float | None = Field(None, gt=0, description="also save when this much time has passed")
    keep_last: int = Field(2, gt=0, description="how many temporary checkpoints stay")
    keep_every: SpanField | None = Field(None, description="checkpoints at these points are never deleted")
    load: Literal["always", "if_available", "never", "warm_start"] = "if_available"
    source: str | None = Field(None, description="a checkpoint or run directory to load from; default: this run's own")
    asynchronous: bool = True


class EvaluationConfig(Section):
    """Held-out evaluation in a fixed order. It always runs at the end."""

    every: SpanField | None = None
    tokens: Count = Field(200_000, gt=0, description="held-out tokens for each set, spread evenly over it")
    position_buckets: int = Field(8, gt=0, description="loss by position is reported in this many equal parts")


class TrackingConfig(Section):
    """The local record is always written. W&B mirrors it; `auto` is online with credentials, else offline."""

    log_every: SpanField = Span(10, "steps")
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "escala"
    group: str | None = None
    tags: tuple[str, ...] = ()


class GuardConfig(Section):
    """What the run does when something goes wrong."""

    non_finite: Literal["stop", "skip"] = Field("stop", description="on a loss or gradient that is not a number")
    max_skips: int = Field(10, ge=0, description="give up after this many skipped steps in a row")
    watchdog_seconds: float = Field(1800.0, gt=0, description="a rank without a step for so long ends the run")
