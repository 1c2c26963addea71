"""The next run: a budget in whatever unit it is known, the allocation with its intervals, and a concrete model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.optimum import budget_for_loss, wasted_share, with_inference
from launch.scaling.questions.saved_fit import SavedFit
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
class Decision:
    """What to train with a budget."""

    flops: float
    N: Estimate
    D: Estimate
    tokens_per_parameter: Estimate
    loss: Estimate
    wasted: Estimate | None  # share of the budget wasted if a replicate, not the fit, is right
    warnings: tuple[str, ...]


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
    """Return the compute-optimal run for a budget, with 95 % intervals over the replicates."""
    _needs_allocation(fit)
    theta = np.concatenate([fit.theta[None], fit.draws])
    if served_tokens:
        log_n, log_d = with_inference(fit.law, theta, fit.centre, flops, served_tokens)
        x = {"N": log_n[:, None] - fit.centre.means["N"], "D": log_d[:, None] - fit.centre.means["D"]}
        loss = np.exp(fit.law.log_loss(theta, x)[0][:, 0])
        wasted = None
    else:
        log_n, loss = fit.allocation(flops)
        log_d = np.log(flops / 6) - log_n
        wasted = _waste(fit, float(log_n[0]), flops)
    return Decision(
        flops=flops,
        N=_estimate(np.exp(log_n)),
        D=_estimate(np.exp(log_d)),
        tokens_per_parameter=_estimate(np.exp(log_d - log_n)),
        loss=_estimate(loss),
        wasted=wasted,
        warnings=tuple(_distance_warnings(fit, flops)),
    )


def _needs_allocation(fit: SavedFit) -> None:
    if set(fit.law.variables) != {"N", "D"}:
        raise UserError(
            f"law {fit.law.name!r} is of {', '.join(fit.law.variables)} alone: an allocation of a budget needs a law "
            "of N and D (runs of several sizes at several lengths, then --law chinchilla)"
        )


def _waste(fit: SavedFit, log_n: float, flops: float) -> Estimate | None:
    if not len(fit.draws):
        return None
    shares = wasted_share(fit.law, fit.draws, fit.centre, log_n, flops)
    return Estimate(float(np.median(shares)), (0.0, float(np.quantile(shares, 0.95))))


def _distance_warnings(fit: SavedFit, flops: float) -> list[str]:
    warnings = [f"the fit is weak: {reason}" for reason in fit.reasons] + list(fit.doubts)
    if not len(fit.draws):
        warnings.append("the fit has no bootstrap replicates, so there are no intervals: fit with --bootstrap 1000")
    if "C" not in fit.range:
        return warnings
    low, high = fit.range["C"]
    if flops > 10 * high:
        warnings.append(
            f"{flops:.2g} FLOPs are {flops / high:.3g} times the largest run ({high:.2g}): intervals hold if the law "
            "goes on; published ones missed by more than their interval at 10 times"
        )
    if flops < low:
        warnings.append(f"{flops:.2g} FLOPs are below the smallest run of the fit ({low:.2g})")
    return warnings


def _estimate(values: Array) -> Estimate:
    if len(values) == 1:
        return Estimate(float(values[0]), None)
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), (float(low), float(high)))


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
