"""Promote, reject, or cannot tell; and what would tell.

Promote where the whole 90 % interval of the common multiplier is above 1, reject where all of it is below what the
change has to be worth, unless the trend takes that back one step beyond the largest rung. A change that does nothing is
promoted in at most 5 of 100 comparisons: that is the half of a 90 % interval's misses that lie above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from launch.scaling.compare.shift import LEVEL, Noise, Shift
from launch.scaling.trust.quantiles import student

FALSE_PROMOTIONS = (1 - LEVEL) / 2
MOST_SEEDS = 64  # that are proposed
MOST_STEPS = 4  # of the ladder, by which a larger rung is proposed

Word = Literal["promote", "reject", "cannot tell"]


@dataclass(frozen=True)
class Verdict:
    """The word, the reason, and for one that is open how many seeds in all or which larger rung would settle it."""

    word: Word
    reason: str
    seeds: int | None = None  # of each side at each rung, in all
    larger: float | None = None  # FLOPs of one more rung


def judge(found: Shift, worth: float = 1.0) -> Verdict:
    """Return the verdict. `worth`: the multiplier below which the change is not wanted, 1 or more."""
    low, high = (float(np.exp(end)) for end in found.common.interval)
    told = f"compute multiplier {np.exp(found.common.value):.3f}, {LEVEL:.0%} [{low:.3f}, {high:.3f}]"
    beyond = float(found.found.x.max()) + _step(found)
    ends = [float(np.exp(end)) for end in found.on_line(beyond).interval]
    turned = f"{told}, but the trend leads to {ends[0]:.3f} to {ends[1]:.3f} one step beyond the largest rung"
    if high < worth:
        if found.trend.interval[0] > 0 and ends[1] >= worth:
            return Verdict("cannot tell", turned, larger=float(np.exp(beyond)))
        less = "worse than the base" if worth == 1 else f"worth less than {worth:g} times the compute"
        return Verdict("reject", f"{told}: {less}")
    if low > 1:
        if found.trend.interval[1] < 0 and ends[0] <= 1:
            return Verdict("cannot tell", turned, larger=float(np.exp(beyond)))
        return Verdict("promote", f"{told}: better than the base")
    return Verdict("cannot tell", f"{told}: 1 is not excluded", *_would_tell(found, worth))


def _would_tell(found: Shift, worth: float) -> tuple[int | None, float | None]:
    """Return the fewest seeds, and the smallest larger rung, that would settle it if the multiplier is as measured."""
    value = found.common.value
    distance = max(abs(value) if value > 0 else 0.0, np.log(worth) - value)
    have = max(1, round(float(found.found.count.mean())))
    enough = (n for n in range(have + 1, MOST_SEEDS + 1) if half_width(found, n) < distance)
    step = _step(found)
    tops = (float(found.found.x.max()) + k * step for k in range(1, MOST_STEPS + 1))
    larger = (float(np.exp(top)) for top in tops if half_width(found, have, top) < distance)
    return next(enough, None), next(larger, None)


def _step(found: Shift) -> float:
    """Return the mean step of the ladder in log FLOPs."""
    return float(np.ptp(found.found.x)) / (len(found.found.x) - 1)


def expected_error(found: Shift, seeds: int, top: float | None = None) -> Noise:
    """Return the standard error of the common shift, and its freedom, with so many seeds at each rung.

    `top`: log FLOPs of one more rung. Where multipliers differ between rungs, seeds do not help: rungs do.
    """
    slopes = found.slope.values
    if top is not None:
        slopes = np.append(slopes, found.slope.at(np.array(top)))
    number = len(slopes)
    worth = float(found.found.count.mean()) if found.differs else float(seeds)
    freedom = number - 1 + (0 if found.differs else number * (seeds - 1))
    return Noise(found.noise.sd / (worth * float((slopes**2).sum())) ** 0.5, freedom)


def half_width(found: Shift, seeds: int, top: float | None = None) -> float:
    """Return half the width of the 90 % interval to expect."""
    expected = expected_error(found, seeds, top)
    return student(expected.freedom, LEVEL) * expected.sd
