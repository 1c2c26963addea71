"""The story of a run: step, record, evaluate, save, until the plan is done or somebody asks to stop."""

from __future__ import annotations

from trainer.engine.engine import Launched, StepOutcome
from trainer.engine.memory_parts import memory_by_part
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
    guard = run.config.guard
    if run.reads_late:
        run.engine.sharded.verdict.most = 0 if guard.non_finite == "stop" else guard.max_skips
    while run.step < run.plan.steps:
        outcome = one_step(run)
        if agreed(run, "leave"):
            raise ReplacedError("a newer attempt of this run has started")
        if agreed(run, ROLL_BACK) and roll_back(run):
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
            if agreed(run, "stop"):
                _save(run)
                run.keeper.settle()
                return False
            wanted = due(run, run.config.checkpoint.every) or run.step in run.config.checkpoint.keep_at
            if wanted or agreed(run, "save"):
                _save(run)
    _save(run)
    record_evaluation(run)
    run.keeper.settle()
    return True


def agreed(run: Run, what: str) -> bool:
    """Return whether ranks agreed on it by the step that was read last, and no step is ahead that it must wait for."""
    if what != "leave" and run.ahead is not None:
        if run.engine.agreement.agreed(what):
            run.deferred.add(what)
        return False
    waited = what in run.deferred
    run.deferred.discard(what)
    return waited or run.engine.agreement.agreed(what)


def one_step(run: Run) -> StepOutcome:
    """Take the next step, count it, and return what it came to."""
    with run.wall_time.part(TRAIN), run.throughput.step(run.plan.tokens_at(run.step)):
        launched = run.ahead or _launch(run, run.step)
        run.ahead = _launch(run, run.step + 1) if _goes_ahead(run) else None
        outcome = launched.read()
    run.step += 1
    run.skipped += outcome.skipped
    if not outcome.skipped:
        run.train_loss = outcome.loss
    for source, passes in run.batches.ended_passes(run.step).items():
        run.observers.event("pass_ended", step=run.step, source=source, passes=passes)
    return outcome


def _goes_ahead(run: Run) -> bool:
    """Return whether the step after the next may be launched before the next is read: nothing comes between them."""
    step = run.step + 1
    if not run.reads_late or run.deferred or step >= run.plan.steps or step in run.config.checkpoint.keep_at:
        return False
    between = (run.config.evaluation.every, run.config.checkpoint.every)
    measured = _norms_due(run, step) or _norms_due(run, step + 1)
    return not measured and not any(falls_on(run, every, step) for every in between)


def _norms_due(run: Run, step: int) -> bool:
    return run.norms is not None and falls_on(run, run.config.tracking.norms_every, step)


def _launch(run: Run, step: int) -> Launched:
    """Launch the step after `step` steps."""
    with run.profile.step(step + 1):
        with run.throughput.wait():
            micro_batches = run.batches.step(step)
        lr, limits = lr_at(run.config, run.plan, step), run.health.limits()
        decay = decay_share(run.config.optim, lr / run.plan.lr)

        def launch() -> Launched:
            return run.engine.launch_step(micro_batches, lr, limits, decay_share=decay)

        run.newest_norms = {}
        if run.norms is None or not _norms_due(run, step + 1):
            return launch()
        launched: list[Launched] = []

        def take() -> StepOutcome:
            launched.append(launch())
            return launched[0].read()

        _, run.newest_norms = run.norms.around(take)
        return launched[0]


def _save(run: Run) -> None:
    with run.wall_time.part("save_seconds"):
        run.keeper.save(run.step, run.batches.state(run.step), run.health.state())
