"""Simulated runs of a known law: curves over steps, with deviations that last and the noise of batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from launch.scaling.live.runs import Finished, Kind

LIKE: dict[str, Any] = {"optim": {"lr": "auto"}, "model": {}, "batch": {"tokens_per_step": 2048}, "schedule": {}}
BATCH, NOISE, DEVIATION = 0.012, 0.003, 0.004  # of the log loss: one batch, what is a run's own of it, and a run


def kind(N: float, steps: int, name: str = "wanted", seed: int = 0) -> Kind:
    return Kind(name, N, steps * 2048.0, steps, 2048, LIKE, seed)


def log_loss(one: Kind, share: np.ndarray) -> np.ndarray:
    """The truth: a floor, a power of N, a power of the tokens so far, and a cooldown over the last fifth."""
    tokens = np.maximum(share, 1 / one.steps) * one.D
    cooldown = 0.08 * np.clip((share - 0.8) / 0.2, 0, 1)
    return np.asarray(np.log(1.2 + (6e3 / one.N) ** 0.35 + (4e5 / (tokens + 2e4)) ** 0.3) - cooldown)


def batches(order: int, steps: int) -> np.ndarray:
    """Return what the batches of an order of data add, the same for runs of every length."""
    return BATCH * np.random.default_rng(10**6 + order).standard_normal(steps)


def run(one: Kind, seed: int, shift: Any = 0.0, every: int = 1) -> Finished:
    """Return a run. `shift`: what is added to its log loss at each step, in numbers of an array or for all."""
    random = np.random.default_rng(seed)
    steps = np.arange(every, one.steps + 1, every, dtype=float)
    share = steps / one.steps
    lasting = DEVIATION * (random.standard_normal() + 0.5 * random.standard_normal() * (1 - share))
    own = batches(one.seed, one.steps)[steps.astype(int) - 1] + NOISE * random.standard_normal(len(steps))
    curve = log_loss(one, share) + lasting + shift + own
    final = float(log_loss(one, np.ones(1))[0] + lasting[-1])
    return Finished(one, steps, curve, final)


def ladder(
    sizes: Sequence[float] = (2e4, 4e4, 8e4), lengths: Sequence[int] = (150, 300, 600), seed: int = 0, order: int = 0
) -> list[Finished]:
    """Return finished runs of every size and length."""
    kinds = [kind(N, steps, f"{N:g}-{steps}", order) for N, steps in product(sizes, lengths)]
    return [run(one, 1000 * seed + number) for number, one in enumerate(kinds)]
