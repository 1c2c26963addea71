"""What becomes of a run whose last step was skipped or spiked."""

from __future__ import annotations

from typing import Any

from trainer.checkpoint.rollback import decide, go_back
from trainer.contract.errors import UserError
from trainer.data.order.skipping import steps_before
from trainer.data.read.opening import refuse_repeats
from trainer.engine.engine import StepOutcome
from trainer.engine.non_finite import sentence, trace_step
from trainer.guard.health import HALT
from trainer.loop.run import DivergedError, Run, lr_at


def judge(run: Run, outcome: StepOutcome, skipped: int) -> int:
    """Return how many steps in a row were skipped; the engine changed no parameter in a skipped step."""
    numbers = f"loss {outcome.loss:.4g} and gradient norm {outcome.grad_norm:.4g} after step {run.step}"
    if run.engine.agreement.agreed(HALT):  # no step is ahead: with guard.spike stop each is read at once
        raise DivergedError(f"{run.health.in_a_row} spikes in a row, {numbers} (guard.spike is stop)")
    run.health.after(run.step, outcome.loss, outcome.grad_norm)
    if not outcome.skipped:
        return 0
    skipped += 1
    guard = run.config.guard
    if not outcome.finite:
        run.observers.event("step_skipped", step=run.step, loss=outcome.loss, grad_norm=outcome.grad_norm)
    if (guard.non_finite == "stop" and not outcome.finite) or skipped > guard.max_skips:
        if run.ahead is not None:
            run.engine.drop()
            run.ahead = None
        if not outcome.finite:
            run.observers.event("non_finite_traced", step=run.step, **_trace(run))
        raise DivergedError(numbers)
    return skipped


def roll_back(run: Run) -> bool:
    """Go back before the spikes in a row and leave their data out. Returns False where the run cannot."""
    guard = run.config.guard
    if len(run.rollbacks) >= guard.max_rollbacks:
        raise DivergedError(f"spikes at step {run.step} after {len(run.rollbacks)} rollbacks (guard.max_rollbacks)")
    at, first = run.step, max(0, run.step - 1 - run.health.in_a_row - guard.margin)

    def may_read(more: int) -> None:
        if first < run.batches.ramp.steps:
            raise UserError(f"the batch rises until step {run.batches.ramp.steps}, so no step can take another's place")
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
            run.live_law.go_back(rows, steps_before(run.batches.skipped))
    run.observers.event("rolled_back", step=run.step, at=at, skipped=decided.range, rollbacks=len(run.rollbacks))
    run.observers.warn(f"spikes at step {at}: the run goes on from step {run.step} without the data of {decided.range}")
    return True


def _trace(run: Run) -> dict[str, Any]:
    """Take the last step again to see which module made what is not finite. The run ends after this."""
    micro_batches = run.batches.step(run.step - 1)
    found = trace_step(run.engine, micro_batches, lr_at(run.config, run.plan, run.step - 1))
    return {**found, "says": sentence(found)}
