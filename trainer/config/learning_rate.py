"""The rule behind `optim.lr: auto`, and the shape of the schedule. Both are pure functions."""

from __future__ import annotations

import math

from trainer.config.optim import OptimConfig, ScheduleConfig

# lr = LR_AT_WIDTH * WIDTH / d_model
WIDTH, LR_AT_WIDTH = 64, 0.012


def peak_lr(optim: OptimConfig, d_model: int) -> float:
    """Return the peak learning rate: the number that was given, or the rule by width.

    The rule: 0.012 at d_model 64, falling as one over the width, as muP has it for hidden matrices under Adam (Yang et
    al. 2022, arXiv 2203.03466, table 3). The constant comes from a sweep over small models, see docs/log.md.
    """
    if optim.lr == "auto":
        return LR_AT_WIDTH * WIDTH / d_model
    return float(optim.lr)


def lr_share(schedule: ScheduleConfig, step: int, *, total_steps: int, tokens_per_step: int) -> float:
    """Return the learning rate of optimizer step `step` (0-based) as a share of the peak.

    Warm-up rises linearly to 1 and is counted in the total. `cosine` and `linear` then fall to `final_ratio` at the
    last step; `inverse_sqrt` falls as 1/sqrt(step) (Vaswani et al. 2017); `wsd` stays at 1 and falls linearly over
    the cooldown (Hu et al. 2024, arXiv 2404.06395); `constant` stays.
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
        cooldown = schedule.decay.steps(tokens_per_step=tokens_per_step, total_steps=total_steps)
        start = max(warmup, total_steps - cooldown)
        if step < start:
            return 1.0
    progress = min((step + 1 - start) / max(total_steps - start, 1), 1.0)
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1 - progress
    return schedule.final_ratio + (1 - schedule.final_ratio) * fall
