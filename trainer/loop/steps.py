"""The story of a run: step, record, evaluate, save, until the plan is done or somebody asks to stop."""

from __future__ import annotations

from collections.abc import Callable

from trainer.engine.engine import StepOutcome
from trainer.engine.memory_parts import memory_by_part
from trainer.engine.norms import Measured
from trainer.guard.fence import ReplacedError
from trainer.guard.health import ROLL_BACK
from trainer.loop.judge import judge, roll_back
from trainer.loop.rows import record_evaluation, record_step
from trainer.loop.run import Run, due, falls_on, lr_at
from trainer.observe.wall_time import TRAIN
from trainer.plan.learning_rate import decay_share


def train(run: Run) -> bool:
    """Train to the end of the plan. Returns False when the run was asked to stop, after it saved.

    Raises `DivergedError` when the loss is lost, `ReplacedError` when a newer attempt has started, and `SaveError` when
    the last checkpoint could not be written: a run that lost its end must not look done.
    """
    skipped = 0
    while run.step < run.plan.steps:
        outcome = one_step(run)
        if run.engine.agreement.agreed("leave"):
            raise ReplacedError("a newer attempt of this run has started")
        if run.engine.agreement.agreed(ROLL_BACK) and roll_back(run):
            skipped = 0
            continue
        skipped = judge(run, outcome, skipped)
        if due(run, run.config.tracking.log_every) or run.newest_norms or run.step == run.plan.steps:
            record_step(run, outcome)
            if not run.measured:  # one that the kernel kills later says no more
                run.measured = True
                run.observers.event("memory_measured", step=run.step, memory_bytes=memory_by_part(run.engine))
        if run.step < run.plan.steps:
            if due(run, run.config.evaluation.every):
                record_evaluation(run)
            if run.engine.agreement.agreed("stop"):
                _save(run)
                run.keeper.settle()
                return False
            wanted = due(run, run.config.checkpoint.every) or run.step in run.config.checkpoint.keep_at
            if wanted or run.engine.agreement.agreed("save"):
                _save(run)
    _save(run)
    record_evaluation(run)
    run.keeper.settle()
    return True


def one_step(run: Run) -> StepOutcome:
    """Take the next step, and count it."""
    with run.wall_time.part(TRAIN), run.throughput.step(run.plan.tokens_at(run.step)), run.profile.step(run.step + 1):
        with run.throughput.wait():
            micro_batches = run.batches.step(run.step)
        lr, limits = lr_at(run.config, run.plan, run.step), run.health.limits()
        decay = decay_share(run.config.optim, lr / run.plan.lr)
        outcome, run.newest_norms = _with_norms(
            run, lambda: run.engine.train_step(micro_batches, lr, limits, decay_share=decay)
        )
    run.step += 1
    run.skipped += outcome.skipped
    if not outcome.skipped:
        run.train_loss = outcome.loss
    for source, passes in run.batches.ended_passes(run.step).items():
        run.observers.event("pass_ended", step=run.step, source=source, passes=passes)
    return outcome


def _with_norms(run: Run, step: Callable[[], StepOutcome]) -> tuple[StepOutcome, Measured]:
    """Take a step, with its norms where they are due."""
    every = run.config.tracking.norms_every
    if run.norms is None or not falls_on(run, every, run.step + 1):
        return step(), {}
    return run.norms.around(step)


def _save(run: Run) -> None:
    with run.wall_time.part("save_seconds"):
        run.keeper.save(run.step, run.batches.state(run.step), run.health.state())
