"""Do activations change by the same amount at every width? The verdict of a coordinate check.

Source: Yang et al. 2022, arXiv 2203.03466, appendix D.1. What a few steps change of each kind of activation is measured
at several widths; the slope of its logarithm against that of the width is 0 where settings transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from scipy import stats

from launch.scaling.arrays import Array

FLAT = 0.2  # a slope up to here is flat: over 16x width a change of 1.7 times
LEVEL = 0.9  # of the interval
FEWEST = 3  # widths that a slope is measured over


class Measured(TypedDict):
    """One width and seed, as `trainer/optim/coordinate_check.py` writes it."""

    d_model: int
    seed: int
    activations: dict[str, dict[str, float]]  # kind -> first, last, change


Verdict = Literal["flat", "grows", "shrinks", "cannot tell"]


@dataclass(frozen=True)
class Slope:
    """Of the change of one kind of activation: its power of the width with a 90 % interval."""

    kind: str
    slope: float
    low: float
    high: float
    sizes: dict[int, float]  # mean change by width

    @property
    def verdict(self) -> Verdict:
        """Flat where the whole interval is, growing or shrinking where none of it is."""
        if self.low >= -FLAT and self.high <= FLAT:
            return "flat"
        if self.low > FLAT:
            return "grows"
        return "shrinks" if self.high < -FLAT else "cannot tell"


def slopes(rows: Sequence[Measured]) -> list[Slope]:
    """Return the slope of each kind of activation over the wider half of the widths, at least three, and all seeds.

    What a narrow model's initial values add falls with the root of the width, so its slope is not that of the limit.
    Each seed has a level of its own, for it has other tokens. The interval is that of parallel straight lines through
    all points, so that a curve widens it. A kind that does not change
    at all, such as an embedding that nothing trains, has no slope and is left out.
    """
    widths = np.array([row["d_model"] for row in rows], dtype=float)
    distinct, seeds = np.unique(widths), np.array([row["seed"] for row in rows])
    assert len(distinct) >= FEWEST, "a slope with an interval needs three widths"
    wide = widths >= distinct[-max(FEWEST, (len(distinct) + 1) // 2)]
    found = []
    for kind in rows[0]["activations"]:
        change = np.array([row["activations"][kind]["change"] for row in rows])
        if not (change > 0).all():
            continue
        slope, margin = _line(np.log(widths[wide]), np.log(change[wide]), seeds[wide])
        means = {int(width): float(np.exp(np.log(change[widths == width]).mean())) for width in distinct}
        found.append(Slope(kind, slope, slope - margin, slope + margin, means))
    return found


def _line(x: Array, y: Array, lines: Array) -> tuple[float, float]:
    """Return the least-squares slope of parallel lines, and half the width of its interval."""
    number = np.unique(lines)
    x, y = x.copy(), y.copy()
    for line in number:
        x[lines == line] -= x[lines == line].mean()
        y[lines == line] -= y[lines == line].mean()
    slope = float(x @ y / (x @ x))
    left, freedom = y - slope * x, len(x) - len(number) - 1
    return slope, float(np.sqrt(left @ left / freedom / (x @ x)) * stats.t.ppf((1 + LEVEL) / 2, freedom))
