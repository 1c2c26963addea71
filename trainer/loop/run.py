"""What the loop works with, and when things are due."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainer.plan.learning_rate import lr_share

if TYPE_CHECKING:
    from trainer.checkpoint.keeper import Keeper
    from trainer.checkpoint.rollback import Rollback
    from trainer.config.run import RunConfig
    from trainer.config.span import Span
    from trainer.data.read.batches import Batches
    from trainer.engine.engine import Engine, Launched
    from trainer.engine.norms import Measured, Norms
    from trainer.evaluation.evaluator import Evaluator
    from trainer.guard.health import Health
    from trainer.observe.live_law import LiveLaw
    from trainer.observe.observers import Observers
    from trainer.observe.profile import Profile
    from trainer.observe.record import Record
    from trainer.observe.throughput import Throughput
    from trainer.observe.wall_time import WallTime
    from trainer.plan.plan import Plan


@dataclass
class Run:
    """What the loop works with. `step` is the number of optimizer steps that are done."""

    config: RunConfig
    plan: Plan
    engine: Engine
    batches: Batches
    keeper: Keeper
    evaluator: Evaluator
    observers: Observers
    throughput: Throughput
    wall_time: WallTime
    record: Record
    health: Health
    rollbacks: list[Rollback]  # of all attempts
    profile: Profile
    norms: Norms | None = None  # None: never measured
    peak_flops: float | None = None  # of one rank's device; None where it is not known
    live_law: LiveLaw | None = None  # on the first rank, of a run with an expected curve
    step: int = 0
    skipped: int = 0  # steps of this attempt
    reads_late: bool = False  # the next step is launched before the outcome of this one is read: see `reads_late`
    ahead: Launched | None = None  # the step after this one, where it is launched already
    deferred: set[str] = field(default_factory=set)  # agreed on while a step was ahead: waits for that step
    measured: bool = False  # what memory is used for is recorded
    train_loss: float | None = None
    newest_norms: Measured = field(default_factory=dict)  # norms of the last step, where they were due


class DivergedError(Exception):
    """The loss or the gradient is not a finite number, or spiked, and the configuration says to stop."""


def lr_at(config: RunConfig, plan: Plan, step: int) -> float:
    """Return the learning rate of optimizer step `step` (0-based)."""
    return plan.lr * lr_share(config.schedule, step, total_steps=plan.steps, tokens_per_step=plan.tokens_per_step)


def reads_late(config: RunConfig, engine: Engine) -> bool:
    """Return whether a run reads what a step came to when the next one is launched, so that no device waits for it.

    On a CPU there is nothing to wait for. `guard.spike: skip`, `rollback` and `stop` act before the next update,
    carried states go back after a skipped step, and an optimizer that takes no verdict waits for it anyway.
    """
    acts_at_once = config.guard.spike not in ("off", "continue")
    return engine.device.type != "cpu" and not (acts_at_once or config.model.carries or engine.sharded.waits)


def due(run: Run, every: Span | None) -> bool:
    """Tell whether what happens `every` so often happens after the step that was taken last; None is never."""
    return falls_on(run, every, run.step)


def falls_on(run: Run, every: Span | None, step: int) -> bool:
    """Tell whether what happens `every` so often happens after this step, as the record counts: the first is 1."""
    if every is None:
        return False
    steps = every.steps(tokens_per_step=run.plan.tokens_per_step, total_steps=run.plan.steps)
    return step % max(steps, 1) == 0
