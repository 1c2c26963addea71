"""The rows of the record: a step that was taken, and the evaluations after it."""

from __future__ import annotations

from typing import Any

from trainer.engine.compiled import compiled_graphs
from trainer.engine.engine import StepOutcome
from trainer.engine.norms import PARAMETER
from trainer.engine.peak import memory_peak
from trainer.loop.run import Run, lr_at


def record_step(run: Run, outcome: StepOutcome) -> None:
    """Record the step that was taken last. A collective call: ranks gather their times."""
    times = run.throughput.report()
    asked = run.profile.asked() if run.engine.mesh.is_first else 0
    ranks, asked = run.engine.rank_times.row(times["data_seconds"] or 0.0, run.plan.degrees.world, asked)
    run.profile.begin(run.step + (1 if run.ahead is None else 2), asked)  # the next that is not launched yet
    values: dict[str, Any] = {
        "tokens": run.plan.tokens_before(run.step),
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
        values |= run.live_law.values(run.step, outcome.loss, run.newest_norms.get(PARAMETER))
    run.observers.row("train", run.step, **values)


def record_evaluation(run: Run) -> None:
    """Evaluate, and record a row for each set. A collective call."""
    with run.wall_time.part("evaluation_seconds"):
        evaluations = run.evaluator()
    for evaluation in evaluations:
        tokens = run.plan.tokens_before(run.step)
        run.observers.row("evaluation", run.step, tokens=tokens, **evaluation.row(), **_course(run))


def _course(run: Run) -> dict[str, int]:
    return {"rollbacks": len(run.rollbacks)} if run.rollbacks else {}


def _mfu(run: Run, tokens_per_second: float | None) -> float | None:
    """Return the model FLOP/s of all ranks as a share of their peak (Chowdhery et al. 2022, appendix B)."""
    if tokens_per_second is None or run.peak_flops is None:
        return None
    return tokens_per_second * run.plan.flops_per_token["total"] / (run.peak_flops * run.plan.degrees.world)
