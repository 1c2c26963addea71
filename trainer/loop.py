"""The story of a run: step, record, evaluate, save, until the plan is done or somebody asks to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trainer.checkpoint.keeper import Keeper
from trainer.checkpoint.rollback import Rollback, decide, go_back
from trainer.config.run import RunConfig
from trainer.config.span import Span
from trainer.data.read.batches import Batches
from trainer.data.read.opening import refuse_repeats
from trainer.engine.compiled import compiled_graphs
from trainer.engine.engine import Engine, StepOutcome
from trainer.engine.memory_parts import memory_by_part
from trainer.engine.non_finite import sentence, trace_step
from trainer.engine.norms import Measured, Norms
from trainer.engine.peak import memory_peak
from trainer.evaluation.evaluator import Evaluator
from trainer.guard.fence import ReplacedError
from trainer.guard.health import HALT, ROLL_BACK, Health
from trainer.observe.live_law import LiveLaw
from trainer.observe.observers import Observers
from trainer.observe.profile import Profile
from trainer.observe.record import Record
from trainer.observe.throughput import Throughput
from trainer.observe.wall_time import TRAIN, WallTime
from trainer.plan.learning_rate import lr_share
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
    measured: bool = False  # what memory is used for is recorded
    train_loss: float | None = None
    newest_norms: Measured = field(default_factory=dict)  # norms of the last step, where they were due


class DivergedError(Exception):
    """The loss or the gradient is not a finite number, or spiked, and the configuration says to stop."""


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
        if run.engine.agreement.agreed(ROLL_BACK) and _roll_back(run):
            skipped = 0
            continue
        skipped = _judge(run, outcome, skipped)
        if _due(run, run.config.tracking.log_every) or run.newest_norms or run.step == run.plan.steps:
            _record_step(run, outcome)
            if not run.measured:  # one that the kernel kills later says no more
                run.measured = True
                run.observers.event("memory_measured", step=run.step, memory_bytes=memory_by_part(run.engine))
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


def decay_share_at(config: RunConfig, plan: Plan, step: int) -> float:
    """Return what weight decay is multiplied by in optimizer step `step`, beside the rate: 1 where it follows the rate.

    A step at rate 0 has no decay either way.
    """
    lr = lr_at(config, plan, step)
    return 1.0 if config.optim.decay_follows_lr or not lr else plan.lr / lr


def one_step(run: Run) -> StepOutcome:
    """Take the next step, and count it."""
    with run.wall_time.part(TRAIN), run.throughput.step(), run.profile.step(run.step + 1):
        with run.throughput.wait():
            micro_batches = run.batches.step(run.step)
        lr, decay_share = lr_at(run.config, run.plan, run.step), decay_share_at(run.config, run.plan, run.step)
        limits = run.health.limits()
        outcome, run.newest_norms = _with_norms(
            run, lambda: run.engine.train_step(micro_batches, lr, limits, decay_share=decay_share)
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
    if run.norms is None or not _falls_on(run, every, run.step + 1):
        return step(), {}
    return run.norms.around(step)


def _judge(run: Run, outcome: StepOutcome, skipped: int) -> int:
    """Return how many steps in a row were skipped; the engine changed no parameter in a skipped step."""
    numbers = f"loss {outcome.loss:.4g} and gradient norm {outcome.grad_norm:.4g} after step {run.step}"
    if run.engine.agreement.agreed(HALT):
        raise DivergedError(f"{run.health.in_a_row} spikes in a row, {numbers} (guard.spike is stop)")
    run.health.after(run.step, outcome.loss, outcome.grad_norm)
    if not outcome.skipped:
        return 0
    skipped += 1
    guard = run.config.guard
    if not outcome.finite:
        run.observers.event("step_skipped", step=run.step, loss=outcome.loss, grad_norm=outcome.grad_norm)
    if (guard.non_finite == "stop" and not outcome.finite) or skipped > guard.max_skips:
        if not outcome.finite:
            run.observers.event("non_finite_traced", step=run.step, **_trace(run))
        raise DivergedError(numbers)
    return skipped


def _roll_back(run: Run) -> bool:
    """Go back before the spikes in a row and leave their data out. Returns False where the run cannot."""
    guard = run.config.guard
    if len(run.rollbacks) >= guard.max_rollbacks:
        raise DivergedError(f"spikes at step {run.step} after {len(run.rollbacks)} rollbacks (guard.max_rollbacks)")
    at, first = run.step, max(0, run.step - 1 - run.health.in_a_row - guard.margin)

    def may_read(more: int) -> None:
        if not run.config.data.repeat:
            refuse_repeats(run.batches, run.plan.steps + more)

    decided = decide(run.keeper, run.batches, run.rollbacks, step=at, first=first, may_read=may_read)
    if isinstance(decided, str):
        run.health.in_a_row = 0  # not asked again at each step of one stretch
        run.observers.event("rollback_impossible", step=at, reason=decided)
        run.observers.warn(f"spikes at step {at}, but the run cannot go back: {decided}")
        return False
    run.step = go_back(run.keeper, run.batches, decided)
    run.rollbacks.append(decided)
    run.health.load(run.keeper.health)
    if run.observers.active:
        run.record.rewind(run.step)
        rows = run.record.training_rows()
        run.wall_time.take_back(rows, run.step, run.throughput.waited_seconds)
        if run.live_law is not None:
            run.live_law.go_back(rows)
    run.observers.event("rolled_back", step=run.step, at=at, skipped=decided.range, rollbacks=len(run.rollbacks))
    run.observers.warn(f"spikes at step {at}: the run goes on from step {run.step} without the data of {decided.range}")
    return True


def _trace(run: Run) -> dict[str, Any]:
    """Take the last step again to see which module made what is not finite. The run ends after this."""
    micro_batches = run.batches.step(run.step - 1)
    found = trace_step(run.engine, micro_batches, lr_at(run.config, run.plan, run.step - 1))
    return {**found, "says": sentence(found)}


def _save(run: Run) -> None:
    with run.wall_time.part("save_seconds"):
        run.keeper.save(run.step, run.batches.state(run.step), run.health.state())


def _due(run: Run, every: Span | None) -> bool:
    return _falls_on(run, every, run.step)


def _falls_on(run: Run, every: Span | None, step: int) -> bool:
    if every is None:
        return False
    steps = every.steps(tokens_per_step=run.plan.tokens_per_step, total_steps=run.plan.steps)
    return step % max(steps, 1) == 0


def _record_step(run: Run, outcome: StepOutcome) -> None:
    times = run.throughput.report()
    asked = run.profile.asked() if run.engine.mesh.is_first else 0
    ranks, asked = run.engine.rank_times.row(times["data_seconds"] or 0.0, run.plan.degrees.world, asked)
    run.profile.begin(run.step + 1, asked)
    values: dict[str, Any] = {
        "tokens": run.step * run.plan.tokens_per_step,
        "loss": outcome.loss,
        "grad_norm": outcome.grad_norm,
        "lr": lr_at(run.config, run.plan, run.step - 1),
        "epoch": round(max(run.batches.epochs(run.step).values()), 4),
        **times,
        **ranks,
        **compiled_graphs(),
        "mfu": _mfu(run, times["tokens_per_second"]),
        "memory_peak": memory_peak(run.engine.device),
        "skipped": run.skipped,
        "seconds_left": run.throughput.left(run.plan.steps - run.step),
        **run.wall_time.row(run.throughput.waited_seconds),
        **_course(run),
        **run.newest_norms,
    }
    if run.live_law is not None:
        values |= run.live_law.values(run.step, outcome.loss)
    run.observers.row("train", run.step, **values)


def _course(run: Run) -> dict[str, int]:
    return {"rollbacks": len(run.rollbacks)} if run.rollbacks else {}


def _mfu(run: Run, tokens_per_second: float | None) -> float | None:
    """Return the model FLOP/s of all ranks as a share of their peak (Chowdhery et al. 2022, appendix B)."""
    if tokens_per_second is None or run.peak_flops is None:
        return None
    return tokens_per_second * run.plan.flops_per_token["total"] / (run.peak_flops * run.plan.degrees.world)


def _record_evaluation(run: Run) -> None:
    with run.wall_time.part("evaluation_seconds"):
        evaluations = run.evaluator()
    for evaluation in evaluations:
        tokens = run.step * run.plan.tokens_per_step
        run.observers.row("evaluation", run.step, tokens=tokens, **evaluation.row(), **_course(run))
