"""The next run: a budget in whatever unit it is known, the allocation with its intervals, and a concrete model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, Law
from launch.scaling.laws.optimum import budget_for_loss, log_optimal_n, loss_at, wasted_share, with_inference
from launch.scaling.questions.saved_fit import SavedFit
from launch.scaling.trust.decision import Spread, quantiles, spread_of
from launch.scaling.trust.replicates import DecisionDraws
from launch.scaling.trust.verdict import Verdict, judge
from trainer.config.model import ModelConfig, parse_model
from trainer.config.sizes import dimensions
from trainer.contract.errors import UserError
from trainer.plan.counting import count_parameters
from trainer.plan.gpus import find_gpu

SECONDS_PER_DAY = 86_400
SMALLEST_MODEL = 1_000  # parameters; the ladder of `trainer/config/sizes.py` begins at 3,000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None where the fit had no replicates."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Parts:
    """What one part of an interval alone would say of N* and the loss. `what` names it."""

    what: str
    N: tuple[float, float]
    loss: tuple[float, float]


@dataclass(frozen=True)
class Decision:
    """What to train with a budget."""

    flops: float
    N: Estimate
    D: Estimate
    tokens_per_parameter: Estimate
    loss: Estimate
    wasted: Estimate | None  # share of the budget wasted if a replicate, not the fit, is right
    warnings: tuple[str, ...]
    parts: tuple[Parts, ...] = ()
    verdict: Verdict | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all of it for `--json`."""
        return asdict(self)


def flops_of_cluster(gpus: int, days: float, mfu: float, gpu: str) -> float:
    """Return the FLOPs of `gpus` accelerators over `days` at a utilisation of `mfu`. Raises UserError, also for a GPU
    that the planner does not know."""
    peak = find_gpu(gpu).flops
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu is a share between 0 and 1, not {mfu}")
    return gpus * days * SECONDS_PER_DAY * mfu * peak


def flops_for_loss(fit: SavedFit, loss: float) -> float:
    """Return the smallest budget that reaches a loss. Raises `UserError` when none does."""
    _needs_allocation(fit)
    budget = float(budget_for_loss(fit.law, fit.theta[None], fit.centre, np.array([loss]))[0])
    if not np.isfinite(budget):
        raise UserError(f"no budget reaches a loss of {loss}: the law's floor is above it or far beyond 1e32 FLOPs")
    return budget


def decide(fit: SavedFit, flops: float, *, served_tokens: float = 0.0) -> Decision:
    """Return the compute-optimal run for a budget, with the 95 % intervals of a decision, their parts and the grade."""
    _needs_allocation(fit)
    drawn = fit.draws_of_decision
    log_n, log_d, ratio, loss = (spread_of(drawn, _placed(flops, served_tokens, k)) for k in range(4))
    known = bool(len(drawn.point.draws))
    wasted = _waste(drawn, log_n, flops) if known and not served_tokens else None
    verdict = None
    if known:
        most = wasted.interval[1] if wasted and wasted.interval else 0.0
        verdict = judge(log_n, log_d, loss, most, flops, drawn, fit.evidence)
    return Decision(
        flops=flops,
        N=_estimate(log_n, known),
        D=_estimate(log_d, known),
        tokens_per_parameter=_estimate(ratio, known),
        loss=_estimate(loss, known),
        wasted=wasted,
        warnings=tuple(_warnings(fit, flops, verdict)),
        parts=_parts(drawn, log_n, loss) if known else (),
        verdict=verdict,
    )


def _placed(flops: float, served_tokens: float, which: int) -> Callable[[Law, Array, Centre], Array]:
    """Return what gives ln N, ln D, ln D/N or the log loss (B,) of the best run by a law: number `which` of these."""

    def place(law: Law, theta: Array, centre: Centre) -> Array:
        if served_tokens:
            log_n, log_d = with_inference(law, theta, centre, flops, served_tokens)
        else:
            log_n = log_optimal_n(law, theta, centre, flops)
            log_d = np.log(flops / 6) - log_n
        if which == 3:
            return loss_at(law, theta, centre, log_n, 6 * np.exp(log_n + log_d))
        return np.asarray((log_n, log_d, log_d - log_n)[which])

    return place


def _needs_allocation(fit: SavedFit) -> None:
    if set(fit.law.variables) != {"N", "D"}:
        raise UserError(
            f"law {fit.law.name!r} is of {', '.join(fit.law.variables)} alone: an allocation of a budget needs a law "
            "of N and D (runs of several sizes at several lengths, then --law chinchilla)"
        )


def _waste(drawn: DecisionDraws, log_n: Spread, flops: float) -> Estimate:
    """Return the share of the budget that acting on N* wastes: the median over the draws, and the 95 % point.

    Where left-out groups widen the interval of N*, the waste grows with its square.
    """
    shares = [wasted_share(r.law, r.draws, r.centre, log_n.value, flops) for r in drawn.laws]
    weights = np.concatenate([np.full(len(s), r.share / len(s)) for s, r in zip(shares, drawn.laws, strict=True)])
    middle, _ = quantiles(np.concatenate(shares), weights, level=0.0)
    _, most = quantiles(np.concatenate(shares), weights, level=0.9)
    return Estimate(middle, (0.0, min(1.0, most * log_n.stretch * log_n.stretch)))


def _parts(drawn: DecisionDraws, log_n: Spread, loss: Spread) -> tuple[Parts, ...]:
    by = "row" if drawn.cluster == "row" else f"row and {drawn.cluster}"
    laws = ", ".join(f"{r.law.name} {r.share:.0%}" for r in drawn.laws)
    groups = " or ".join(dict.fromkeys(x.by for x in drawn.left_out)) or "group"
    named = {f"noise, by {by}": "noise", f"laws: {laws}": "law", f"without one {groups}": "left_out"}
    return tuple(Parts(what, _exp(getattr(log_n, part)), _exp(getattr(loss, part))) for what, part in named.items())


def _exp(ends: tuple[float, float]) -> tuple[float, float]:
    return float(np.exp(ends[0])), float(np.exp(ends[1]))


def _warnings(fit: SavedFit, flops: float, verdict: Verdict | None) -> list[str]:
    warnings = [f"the fit is weak: {reason}" for reason in fit.reasons] + list(fit.doubts) if verdict is None else []
    if verdict is None:
        warnings.append("the fit has no bootstrap replicates, so there are no intervals: fit with --bootstrap 1000")
    if "C" in fit.range and flops < fit.range["C"][0]:
        warnings.append(f"{flops:.2g} FLOPs are below the smallest run of the fit ({fit.range['C'][0]:.2g})")
    return warnings


def _estimate(spread: Spread, known: bool) -> Estimate:
    return Estimate(float(np.exp(spread.value)), _exp(spread.interval) if known else None)


def concrete_model(
    N: float, convention: str, vocab_size: int, context_length: int, mixers: Mapping[str, Any] | None = None
) -> ModelConfig:
    """Return the model of the ladder whose N, as the fit counts it, is nearest to the wanted one.

    The rule of `trainer/config/sizes.py` gives the shape for a body size, so the vocabulary's share is taken off
    by iteration. For tables of other people N is taken as body + head. `mixers` is the `mixer` or the `pattern` of the
    model section, where it is not attention.
    """
    if N < SMALLEST_MODEL:
        raise UserError(f"N = {N:.3g}: no model is that small; the budget is far below the runs of the fit")
    wanted = N
    for _ in range(30):
        body = max(3_000, round(wanted))
        try:
            width = parse_model({"size": str(body), **mixers}).d_model if mixers else dimensions(body).d_model
        except ValueError as error:
            raise UserError(f"N = {N:.3g}: no model of the ladder has that size: {error}") from None
        overhead = 0 if convention == "body" else vocab_size * width
        following = max(3_000.0, N - overhead)
        if abs(following - wanted) <= 1e-3 * wanted:
            break
        wanted = following
    return parse_model(
        {
            "size": str(max(3_000, round(wanted))),
            "vocab_size": vocab_size,
            "context_length": context_length,
            **(mixers or {}),
        }
    )


def mixers_of(config: ModelConfig) -> dict[str, Any]:
    """Return the `mixer` or the `pattern` of a model section, as it is stated; nothing for attention."""
    stated = config.model_dump(mode="json")
    return {key: stated[key] for key in ("mixer", "pattern") if key in stated}


def counted(config: ModelConfig, convention: str) -> int:
    """Return N of a model under the convention of a fit; `as given` counts body and head."""
    count = count_parameters(config)
    if convention == "body":
        return count.body
    if convention == "total":
        return count.total
    return count.body + config.vocab_rows * config.d_model


def run_yaml(decision: Decision, config: ModelConfig, data: str, tokens_per_step: int) -> dict[str, Any]:
    """Return the run as a mapping that `escala train` accepts."""
    return {
        "name": f"optimal-{decision.flops:.2g}".replace("+", ""),
        "model": {"size": str(config.size), "context_length": config.context_length, **mixers_of(config)},
        "data": data,
        "batch": {"tokens_per_step": tokens_per_step},
        "tokens": round(decision.D.value / tokens_per_step) * tokens_per_step or tokens_per_step,
    }
