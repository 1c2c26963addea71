"""The rule behind `optim.lr: auto`, and the shape of the schedule. Both are pure functions."""

from __future__ import annotations

import math
from typing import Literal

from trainer.config.optim import OptimConfig, ScheduleConfig

# lr = LR_AT * (body parameters / PARAMETERS_AT)^-EXPONENT
PARAMETERS_AT, LR_AT, EXPONENT = 125e6, 6e-4, 0.4
NO_RATE = 1e-9  # a share of the peak that counts as none


def peak_lr(optim: OptimConfig, body_parameters: int, tokens: int, batch: int) -> float:
    """Return the peak learning rate: the number that was given, the law of a recipe, or the rule by size.

    `tokens` are those of the whole run, `batch` those of a step. Raises UserError outside the range of a recipe.

    `lr_horizon` has it fall with the run's length: times (tokens / those at which it was tuned)^-exponent.

    The rule: 6e-4 at 125M parameters of the body, falling with the power 0.4 of their number. It passes within a factor
    of two through the rates of GPT-3 from 125M to 175B (Brown et al. 2020, table 2.1) and, four decades below, through
    the optima of this project's sweeps of models of 13k and 100k parameters (docs/log.md).
    """
    factor, horizon = optim.lr_factor, optim.lr_horizon
    if horizon is not None:
        factor *= math.pow(tokens / horizon.tokens, -horizon.exponent)
    if optim.recipe is not None:
        return factor * optim.recipe.lr.at({"N": body_parameters, "D": tokens, "batch": batch}, optim.recipe_reach)
    if optim.lr == "auto":
        return factor * LR_AT * math.pow(body_parameters / PARAMETERS_AT, -EXPONENT)
    return factor * float(optim.lr)


def lr_source(optim: OptimConfig) -> str:
    """Return how the peak learning rate came about: `recipe`, `rule` or `by hand`."""
    if optim.recipe is not None and optim.lr_factor == 1:
        return "recipe"
    return "rule" if optim.lr == "auto" and optim.lr_factor == 1 and optim.lr_horizon is None else "by hand"


def recipe_source(optim: OptimConfig, knob: Literal["batch", "weight_decay"]) -> Literal["recipe", "by hand"]:
    """Return how batch or weight decay came about."""
    return "recipe" if optim.recipe is not None and getattr(optim.recipe, knob) is not None else "by hand"


def decay_share(optim: OptimConfig, share: float) -> float:
    """Return what weight decay is multiplied by at a share of the peak rate, beside the rate itself.

    1 where decay follows the rate; else 1 / share, so that their product is that of the peak (Loshchilov and Hutter
    2019, arXiv 1711.05101). A step at a rate of 0, or of less than a billionth of the peak, has none either way.
    """
    return 1.0 if optim.decay_follows_lr or share < NO_RATE else 1 / share


def lr_share(schedule: ScheduleConfig, step: int, *, total_steps: int, tokens_per_step: int) -> float:
    """Return the learning rate of optimizer step `step` (0-based) as a share of the peak.

    Warm-up rises linearly to 1 and is counted in the total. `cosine` and `linear` then fall to `final_ratio` at the
    last step; `inverse_sqrt` falls as 1/sqrt(step) (Vaswani et al. 2017); `wsd` stays at 1 and falls over the
    cooldown (Hu et al. 2024, arXiv 2404.06395), linearly or by 1 - sqrt of the share gone (Hagele et al. 2024,
    arXiv 2405.18392); `constant` stays.
    """
    warmup = schedule.warmup.steps(tokens_per_step=tokens_per_step, total_steps=total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "inverse_sqrt":
        return math.sqrt(max(warmup, 1) / (step + 1))
    start = warmup
    if schedule.kind == "wsd":
        start = cooldown_start(schedule, total_steps=total_steps, tokens_per_step=tokens_per_step)
        if step < start:
            return 1.0
    progress = min((step + 1 - start) / max(total_steps - start, 1), 1.0)
    return schedule.final_ratio + (1 - schedule.final_ratio) * _fall(schedule, progress)


def _fall(schedule: ScheduleConfig, progress: float) -> float:
    """Return how far above the last rate it is, 1 to 0, once this share of the fall has gone."""
    if schedule.kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.kind == "wsd" and schedule.cooldown == "1-sqrt":
        return 1 - math.sqrt(progress)
    return 1 - progress


def cooldown_start(schedule: ScheduleConfig, *, total_steps: int, tokens_per_step: int) -> int:
    """Return how many steps of a `wsd` run come before its cooldown. Runs of other lengths share all of them."""
    warmup = schedule.warmup.steps(tokens_per_step=tokens_per_step, total_steps=total_steps)
    cooldown = schedule.decay.steps(tokens_per_step=tokens_per_step, total_steps=total_steps)
    return max(warmup, total_steps - cooldown)
