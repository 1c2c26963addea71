"""Which runs a tuning needs next. A pure function of the runs that have ended: nothing else is remembered.

Sizes are tuned one after the other, smallest first, and each begins where the one before found its best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launch.scaling.tune.parabola import Trial
from launch.scaling.tune.search import RATE, Bracket, Found, found, next_values


@dataclass(frozen=True)
class Size:
    """A size at which one setting is tuned. `own`: the sweep's value there. `tried`: those of its runs that ended."""

    name: str
    N: float
    D: float
    batch: float
    flops: float  # of one run, at most
    own: float
    tried: tuple[Trial, ...] = ()
    bracket: Bracket = RATE
    saved: float = 0.0  # FLOPs that runs which diverged left over

    @property
    def spent(self) -> float:
        """Return the FLOPs that its runs cost, at most."""
        return self.flops * len(self.tried) - self.saved

    def next_values(self, centre: float, most: int) -> tuple[float, ...]:
        """Return the values to be tried now, in octaves; none where it is done or `most` runs are spent."""
        return next_values(self.tried, centre, most, self.bracket)

    def found(self) -> Found | None:
        """Return the best value by what was tried; None where no run came to an end."""
        return found(self.tried, self.bracket)


@dataclass(frozen=True)
class Spending:
    """`budget`: FLOPs that all runs may cost. `most`: runs of one size. `elsewhere`: FLOPs spent on other settings."""

    budget: float
    most: int
    elsewhere: float = 0.0


@dataclass(frozen=True)
class Next:
    """`runs`: places in the list of sizes with the value to be tried there, in octaves. `stopped`: by the budget."""

    runs: tuple[tuple[int, float], ...]
    stopped: str = ""


def next_runs(sizes: Sequence[Size], spending: Spending) -> Next:
    """Return the runs to be made now; none where every size is done or the budget is spent."""
    left = spending.budget - spending.elsewhere - sum(size.spent for size in sizes)
    centre = 0.0
    for k in sorted(range(len(sizes)), key=lambda k: sizes[k].flops):
        size = sizes[k]
        values = size.next_values(centre, spending.most)
        if values and len(values) * size.flops > left:
            return Next((), _stopped(size, len(values), left, spending.budget))
        if values:
            return Next(tuple((k, x) for x in values))
        result = size.found()
        centre = result.x if result is not None and not result.problem else centre
    return Next(())


def _stopped(size: Size, runs: int, left: float, budget: float) -> str:
    needed = budget - left + runs * size.flops
    return (
        f"the budget of {budget:.3g} FLOPs has {max(left, 0.0):.3g} left, and {size.name} needs {runs} more "
        f"run{'s' if runs > 1 else ''} of {size.flops:.3g}: raise --budget until it is {needed:.3g} or more"
    )


def smallest_two_and_middle(flops: Sequence[float]) -> list[int]:
    """Return the places of the smallest two sizes and one in the middle of the rest, by FLOPs; fewer where few."""
    order = sorted(range(len(flops)), key=lambda k: flops[k])
    return order if len(order) <= 3 else [order[0], order[1], order[(len(order) + 1) // 2]]
