"""The smaller sections of a run: batch, length, checkpoints, evaluation, tracking, guard."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trainer.config.base import Section, is_none
from trainer.config.conditional import ANY, Conditional
from trainer.config.identity import Execution, Result
from trainer.config.span import Count, Span, SpanField


class BatchWarmup(Section):
    """A global batch that begins small and doubles, at equal parts of the tokens over which it rises."""

    doublings: Result[int] = Field(gt=0, le=20, description="the run begins with tokens_per_step / 2^doublings")
    tokens: Result[Count] = Field(gt=0, description="from the beginning of the run to the whole batch")


class BatchConfig(Section):
    """The global batch is given in tokens; micro-batch and accumulation follow from the world."""

    tokens_per_step: Result[Count] = Field(gt=0, description="of one optimizer step, over all ranks")
    micro_batch: Execution[int | None] = Field(
        None, gt=0, description="sequences of one forward pass on one rank; default: derived"
    )
    warmup: Result[BatchWarmup | None] = Field(
        None,
        description="a batch that rises; the learning rate does not follow it. Default: it is the same in every step",
        exclude_if=is_none,  # so that runs without it keep their identity
    )


class CheckpointConfig(Section):
    """When checkpoints are written, which are kept, and what a starting run does with those that it finds."""

    conditional: ClassVar = (
        Conditional(("keep_every",), {"every": ANY, "minutes": ANY}),
        Conditional(("source",), {"load": ("always", "if_available", "warm_start")}),
    )
    every: Execution[SpanField | None] = Field(None, description="save so often; default: at the end only")
    minutes: Execution[float | None] = Field(None, gt=0, description="also save when this much time has passed")
    keep_last: Execution[int] = Field(2, gt=0, description="how many temporary checkpoints stay")
    keep_every: Execution[SpanField | None] = Field(None, description="checkpoints at these points are never deleted")
    keep_at: Execution[tuple[Count, ...]] = Field(
        (), description="optimizer steps after which a checkpoint is written and never deleted"
    )
    load: Result[Literal["always", "if_available", "never", "warm_start"]] = Field(
        "if_available", description="resume or refuse; resume or begin; begin; begin with the weights of source"
    )
    source: Result[str | None] = Field(
        None, description="a checkpoint or run directory to load from; default: this run's own"
    )
    asynchronous: Execution[bool] = Field(True, description="training waits for the copy to host memory only")


class EvaluationConfig(Section):
    """Held-out evaluation in a fixed order. It always runs at the end."""

    every: Execution[SpanField | None] = Field(None, description="evaluate so often; default: at the end only")
    tokens: Result[Count] = Field(200_000, gt=0, description="held-out tokens for each set, spread evenly over it")
    position_buckets: Result[int] = Field(8, gt=0, description="loss by position is reported in this many equal parts")


class TrackingConfig(Section):
    """The local record is always written. W&B mirrors it; `auto` is online with credentials, else offline."""

    conditional: ClassVar = (
        Conditional(("activations",), {"norms_every": ANY}),
        Conditional(("prompts",), {"wandb": ("auto", "online", "offline")}),
    )
    log_every: Execution[SpanField] = Field(Span(10, "steps"), description="record the loss so often")
    norms_every: Execution[SpanField | None] = Field(
        None, description="record norms of gradients, parameters and updates by kind of parameter so often"
    )
    activations: Execution[bool] = Field(False, description="with these norms, also the size of each block's output")
    wandb: Execution[Literal["auto", "online", "offline", "disabled"]] = Field(
        "auto", description="mirror of the local record"
    )
    project: Execution[str] = Field("escala", description="in W&B")
    group: Execution[str | None] = Field(None, description="in W&B; a sweep gives its name")
    tags: Execution[tuple[str, ...]] = Field((), description="in W&B")
    prompts: Execution[tuple[str, ...]] = Field((), description="texts that each checkpoint continues, for W&B")
    tensorboard: Execution[bool] = Field(False, description="also write event files for TensorBoard")
    profile_steps: Execution[tuple[str, ...]] = Field(
        (), description="steps to profile, such as 10:13, the last left out; a trace of each rank for Perfetto"
    )


class GuardConfig(Section):
    """What the run does when something goes wrong. See `trainer/guard/health.py` for spikes."""

    conditional: ClassVar = (
        Conditional(("sigma", "window"), {"spike": ("continue", "skip", "rollback", "stop")}),
        Conditional(("patience",), {"spike": ("rollback", "stop")}),
        Conditional(("margin", "max_rollbacks"), {"spike": ("rollback",)}),
        Conditional(("max_skips",), {"non_finite": ("skip",), "spike": ("skip",)}),
    )
    non_finite: Result[Literal["stop", "skip"]] = Field(
        "stop", description="on a loss or gradient that is not a number"
    )
    max_skips: Execution[int] = Field(10, ge=0, description="give up after this many skipped steps in a row")
    watchdog_seconds: Execution[float] = Field(
        1800.0, gt=0, description="a rank without a step for so long ends the run"
    )
    # Left out of what is written where they have their defaults, so that runs without them keep their identity.
    spike: Result[Literal["off", "continue", "skip", "rollback", "stop"]] = Field(
        "continue",
        exclude_if=lambda value: value == "continue",
        description="on a loss or gradient norm far above those before: look for none; record it; do not apply that "
        "update; go back to the last good checkpoint and leave the data out; end the run",
    )
    sigma: Result[float] = Field(
        6.0, gt=0, exclude_if=lambda value: value == 6.0, description="a spike is so many standard deviations up"
    )
    window: Result[int] = Field(
        100, ge=10, exclude_if=lambda value: value == 100, description="steps that a spike is compared with"
    )
    patience: Result[int] = Field(
        3, gt=0, exclude_if=lambda value: value == 3, description="spikes in a row before rollback or stop"
    )
    margin: Result[int] = Field(
        10, ge=0, exclude_if=lambda value: value == 10, description="rollback: steps before the spike to leave out too"
    )
    max_rollbacks: Execution[int] = Field(3, ge=0, description="give up where the run would go back once more")
