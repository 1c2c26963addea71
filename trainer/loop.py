"""The story of a run: step, record, evaluate, save, until the plan is done or somebody asks to stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.checkpoint.keeper import Keeper
from trainer.config.run import RunConfig
from trainer.config.span import Span
from trainer.data.read.batches import Batches
from trainer.engine.engine import Engine, StepOutcome
from trainer.engine.peak import memory_peak
from trainer.evaluation.evaluator import Evaluator
from trainer.guard.fence import ReplacedError
from trainer.observe.observers import Observers
from trainer.observe.throughput import Throughput
from trainer.observe.wall_time import TRAIN, WallTime
from trainer.plan.learning_rate import decay_share, lr_share
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
    peak_flops: float | None = None  # of one rank's device; None where it is not known
    step: int = 0
    skipped: int = 0  # steps of this attempt
    train_loss: float | None = None


class DivergedError(Exception):
    """The loss or the gradient is not a finite number, and the configuration says to stop."""


def train(run: Run) -> bool:
    """Train to the end of the plan. Returns False when the run was asked to stop, after it saved.

    Raises `DivergedError` when the loss is lost, `ReplacedError` when a newer attempt has started, and `SaveError` when
    the last checkpoint could not be written: a run that lost its end must not look done.
    """
    skipped = 0
    while run.step < run.plan.steps:
        outcome = _one_step(run)
        if run.engine.agreement.agreed("leave"):
            raise ReplacedError("a newer attempt of this run has started")
        skipped = _check_finite(run, outcome, skipped)
        if _due(run, run.config.tracking.log_every) or run.step == run.plan.steps:
            _record_step(run, outcome)
        if run.step < run.plan.steps:
            if _due(run, run.config.evaluation.every):
                _record_evaluation(run)
            if run.engine.agreement.agreed("stop"):
                _save(run)
                run.keeper.settle()
                return False
            due = _due(run, run.config.checkpoint.every) or run.step in run.config.checkpoint.keep_at
            if due or run.engine.agreement.agreed("save"):
                _save(run)
    _save(run)
    _record_evaluation(run)
    run.keeper.settle()
    return True


def lr_at(config: RunConfig, plan: Plan, step: int) -> float:
    """Return the learning rate of optimizer step `step` (0-based)."""
    return plan.lr * lr_share(config.schedule, step, total_steps=plan.steps, tokens_per_step=plan.tokens_per_step)


def _one_step(run: Run) -> StepOutcome:
    with run.wall_time.part(TRAIN), run.throughput.step():
        with run.throughput.wait():
            micro_batches = run.batches.step(run.step)
        lr = lr_at(run.config, run.plan, run.step)
        decay = decay_share(run.config.optim, lr / run.plan.lr)
        outcome = run.engine.train_step(micro_batches, lr, decay_share=decay)
    run.step += 1
    run.skipped += outcome.skipped
    if not outcome.skipped:
        run.train_loss = outcome.loss
    for source, passes in run.batches.ended_passes(run.step).items():
        run.observers.event("pass_ended", step=run.step, source=source, passes=passes)
    return outcome


def _check_finite(run: Run, outcome: StepOutcome, skipped: int) -> int:
    """Return how many steps in a row were skipped; the engine changed no parameter in a skipped step."""
    if not outcome.skipped:
        return 0
    skipped += 1
    guard = run.config.guard
    run.observers.event("step_skipped", step=run.step, loss=outcome.loss, grad_norm=outcome.grad_norm)
    if guard.non_finite == "stop" or skipped > guard.max_skips:
        raise DivergedError(f"loss {outcome.loss:.4g} and gradient norm {outcome.grad_norm:.4g} after step {run.step}")
    return skipped


def _save(run: Run) -> None:
    with run.wall_time.part("save_seconds"):
        run.keeper.save(run.step, run.batches.state(run.step))


def _due(run: Run, every: Span | None) -> bool:
    if every is None:
        return False
    steps = every.steps(tokens_per_step=run.plan.tokens_per_step, total_steps=run.plan.steps)
    return run.step % max(steps, 1) == 0


def _record_step(run: Run, outcome: StepOutcome) -> None:
    times = run.throughput.report()
    values: dict[str, Any] = {
        "tokens": run.step * run.plan.tokens_per_step,
        "loss": outcome.loss,
        "grad_norm": outcome.grad_norm,
        "lr": lr_at(run.config, run.plan, run.step - 1),
        "epoch": round(max(run.batches.epochs(run.step).values()), 4),
        **times,
        "mfu": _mfu(run, times["tokens_per_second"]),
        "memory_peak": memory_peak(run.engine.device),
        "skipped": run.skipped,
        "seconds_left": run.throughput.left(run.plan.steps - run.step),
        **run.wall_time.row(run.throughput.waited_seconds),
    }
    run.observers.row("train", run.step, **values)


def _mfu(run: Run, tokens_per_second: float | None) -> float | None:
    """Return the model FLOP/s of all ranks as a share of their peak (Chowdhery et al. 2022, appendix B)."""
    if tokens_per_second is None or run.peak_flops is None:
        return None
    return tokens_per_second * run.plan.flops_per_token["total"] / (run.peak_flops * run.plan.degrees.world)


def _record_evaluation(run: Run) -> None:
    with run.wall_time.part("evaluation_seconds"):
        evaluations = run.evaluator()
    for evaluation in evaluations:
        run.observers.row("evaluation", run.step, tokens=run.step * run.plan.tokens_per_step, **evaluation.row())
