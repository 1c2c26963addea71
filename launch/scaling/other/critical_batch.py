"""The critical batch: up to which batch more tokens a step save steps (McCandlish et al. 2018, arXiv 1812.06162).

To reach a loss takes S steps and E = B S tokens with a batch of B tokens. They trade as

    (S / S_min - 1) (E / E_min - 1) = 1,    that is    S = S_min (1 + B_crit / B),  B_crit = E_min / S_min.

At B_crit a run takes twice the fewest steps and twice the fewest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from launch.scaling.arrays import Array
from trainer.contract.errors import UserError

LEVEL = 0.9
FEWEST = 3  # batch sizes: two give a curve and no residual
WIDE = 1e4  # the law is searched up to so many times beyond the batches


@dataclass(frozen=True)
class Curve:
    """How the loss of one run fell: at which step it was what, with a batch of so many tokens."""

    name: str
    seed: str  # of runs of one batch and seed, trials of a learning rate for instance, the fastest counts
    batch: float
    steps: Array
    losses: Array

    def steps_to(self, loss: float) -> float | None:
        """Return after how many steps a loss was first reached, interpolated in log step; None if it never was."""
        below = np.flatnonzero(self.losses <= loss)
        if not len(below) or below[0] == 0:
            return None
        after = below[0]
        share = (self.losses[after - 1] - loss) / (self.losses[after - 1] - self.losses[after])
        low, high = np.log(self.steps[after - 1]), np.log(self.steps[after])
        return float(np.exp(low + share * (high - low)))


@dataclass(frozen=True)
class CriticalBatch:
    """The law at one loss. Intervals are at 90 %; an end of 0 or infinity means that the batches do not bound it."""

    loss: float
    critical: float  # B_crit in tokens
    interval: tuple[float, float]
    fewest_steps: float
    fewest_tokens: float
    residual: float  # root mean square of log steps about the law
    batches: tuple[float, ...]
    steps: tuple[float, ...]


def common_loss(curves: Sequence[Curve]) -> float:
    """Return the lowest loss that every batch reaches: the worst over batches of the best over their runs."""
    return max(min(float(c.losses.min()) for c in curves if c.batch == batch) for batch in {c.batch for c in curves})


def fit_critical_batch(curves: Sequence[Curve], loss: float | None = None) -> CriticalBatch:
    """Fit the law to runs of at least three batch sizes that reach a loss, by default the lowest that all reach.

    The interval holds every B_crit whose profile likelihood an F test at 90 % does not refuse. Raises `UserError`.
    """
    batches = sorted({c.batch for c in curves})
    if len(batches) < FEWEST:
        raise UserError(f"{len(batches)} batch sizes are too few: a critical batch needs runs at {FEWEST} or more")
    target = common_loss(curves) if loss is None else loss
    found: dict[tuple[float, str], float] = {}
    for curve in curves:
        if (took := curve.steps_to(target)) is not None:
            key = curve.batch, curve.seed
            found[key] = min(took, found.get(key, took))
    missing = [batch for batch in batches if batch not in {b for b, _ in found}]
    if missing:
        named = ", ".join(f"{batch:g}" for batch in missing)
        raise UserError(
            f"no run with a batch of {named} tokens comes down to loss {target:.4g} between two evaluations: ask for a "
            f"higher --loss (all reach {common_loss(curves):.4g}), evaluate more often, or train these longer"
        )
    batch, steps = np.array([b for b, _ in found]), np.array(list(found.values()))
    grid = np.geomspace(batch.min() / WIDE, batch.max() * WIDE, 2001)
    misfit = np.array([_misfit(critical, batch, steps)[0] for critical in grid])
    at = int(misfit.argmin())
    near = np.log(grid[max(at - 1, 0)]), np.log(grid[min(at + 1, len(grid) - 1)])
    best = optimize.minimize_scalar(lambda log: _misfit(np.exp(log), batch, steps)[0], bounds=near, method="bounded")
    critical = float(np.exp(best.x))
    least, fewest = _misfit(critical, batch, steps)
    freedom = len(batch) - 2
    allowed = least * (1 + stats.f.ppf(LEVEL, 1, freedom) / freedom)
    inside = grid[misfit <= allowed]
    ends = (inside.min(), inside.max()) if len(inside) else (critical, critical)
    low = 0.0 if misfit[0] <= allowed else min(float(ends[0]), critical)
    high = np.inf if misfit[-1] <= allowed else max(float(ends[1]), critical)
    residual = float(np.sqrt(least / freedom))
    return CriticalBatch(
        target, critical, (low, float(high)), fewest, fewest * critical, residual, tuple(batch), tuple(steps)
    )


def _misfit(critical: float, batch: Array, steps: Array) -> tuple[float, float]:
    """Return the sum of squares of log steps about the law with this B_crit, and the fewest steps that fit it best."""
    excess = np.log(steps) - np.log1p(critical / batch)
    return float(((excess - excess.mean()) ** 2).sum()), float(np.exp(excess.mean()))
