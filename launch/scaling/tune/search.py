"""Which values of a setting to try next at one size. A pure function of what was tried.

A bracket of three, further ones past an edge until the best lies inside, then one at a time where it tells most of the
minimum, until the expected regret is small or the runs are spent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from launch.scaling.tune.parabola import Parabola, Trial, ceiling, error_with, finite, fit_parabola

FURTHEST = 4.0  # octaves past an edge in one stride
SMALL_REGRET = 0.0002  # of log loss, expected: with less than this a size is tuned
TOLERABLE = 0.001  # of log loss, expected: with more a size is not tuned
REACH = 3.0  # octaves about the minimum in which a further trial is sought


@dataclass(frozen=True)
class Bracket:
    """How the values of a setting are spaced, in octaves from the sweep's own, and between which they lie.

    Values are rounded to the grid, so that a question asked again has the same answer.
    """

    grid: float
    step: float  # between the three values of a bracket
    low: float = -math.inf
    high: float = math.inf

    def snapped(self, x: float) -> float:
        """Return the place on the grid next to x."""
        return round(x / self.grid) * self.grid

    def is_possible(self, x: float) -> bool:
        """Return whether a value lies there: one beyond a bound is taken for it by half a grid step."""
        return self.low - self.grid / 2 < x < self.high + self.grid / 2

    def is_tried(self, x: float, tried: Sequence[Trial]) -> bool:
        """Return whether a trial lies there, by half a grid step."""
        return any(abs(x - t.x) < self.grid / 2 for t in tried)


RATE = Bracket(grid=0.5, step=1.5)
WIDE = Bracket(grid=1.0, step=2.0)  # of batch and weight decay, about whose optimum losses are flatter


@dataclass(frozen=True)
class Found:
    """The best value of one size, in octaves from the sweep's own. `error`: its standard error."""

    x: float
    error: float
    curvature: float
    problem: str = ""  # why it may not be believed; empty: the optimum lies inside what was tried


def next_values(tried: Sequence[Trial], centre: float, most: int, bracket: Bracket = RATE) -> tuple[float, ...]:
    """Return the values to be tried now at one size, in octaves; none where it is done or `most` runs are spent."""
    left = most - len(tried)
    if left <= 0:
        return ()
    if len(tried) < 3:
        wanted = [x for x in _first_three(centre, bracket) if not bracket.is_tried(x, tried)]
        if wanted:
            return tuple(wanted[: min(left, 3 - len(tried))])
    fit = fit_parabola(tried)
    if fit is None:
        lower = bracket.snapped(min(t.x for t in tried) - 2 * bracket.step)
        return (lower,) if bracket.is_possible(lower) else ()
    if (edge := _past_the_edge(tried, fit, bracket)) is not None:
        return (edge,)
    lost = fit.regret + fit.rise(_trained(fit, tried))
    return () if lost <= SMALL_REGRET else _most_telling(fit, tried, bracket)


def found(tried: Sequence[Trial], bracket: Bracket = RATE) -> Found | None:
    """Return the best value by what was tried; None where no run came to an end."""
    fit, good = fit_parabola(tried), finite(tried)
    if fit is None:
        return None
    best = min(good, key=lambda t: t.log_loss)
    if edge := _open_edge(tried, best):
        further = best.x + (bracket.grid if edge == "highest" else -bracket.grid)
        which = "was tried" if bracket.is_possible(further) else "is possible"
        return Found(best.x, fit.error, fit.curvature, f"the best value is the {edge} that {which}")
    x = _trained(fit, tried)
    lost = fit.regret + fit.rise(x)
    vague = f"the optimum is known poorly: {lost:.2%} of the loss is expected to be lost"
    return Found(x, fit.error, fit.curvature, vague if lost > TOLERABLE else "")


def _first_three(centre: float, bracket: Bracket) -> list[float]:
    """Return the bracket about a centre; where a bound is in the way, its third value lies on the other side."""
    middle, step = bracket.snapped(centre), bracket.step
    possible = [middle, middle - step, middle + step, middle - 2 * step, middle + 2 * step]
    return [x for x in possible if bracket.is_possible(x)][:3]


def _trained(fit: Parabola, tried: Sequence[Trial]) -> float:
    """Return the best value; where larger ones diverged at most the largest that did not: nobody knows in between."""
    return fit.best if math.isinf(ceiling(tried)) else min(fit.best, finite(tried)[-1].x)


def _open_edge(tried: Sequence[Trial], best: Trial) -> str:
    """Say at which edge the optimum may lie beyond what was tried; a run that diverged above bounds it."""
    if not any(t.x < best.x for t in tried):
        return "lowest"
    return "" if any(t.x > best.x for t in tried) else "highest"


def _past_the_edge(tried: Sequence[Trial], fit: Parabola, bracket: Bracket) -> float | None:
    """Return a value past the edge at which the best one lies; None where it lies inside, or nothing is past it."""
    best = min(finite(tried), key=lambda t: t.log_loss)
    edge = _open_edge(tried, best)
    if not edge:
        return None
    sign, step = (1 if edge == "highest" else -1), bracket.step
    x = bracket.snapped(best.x + sign * min(max(sign * (fit.best - best.x) + step, step), FURTHEST))
    while not bracket.is_possible(x) and sign * (x - best.x) > bracket.grid:
        x -= sign * bracket.grid
    return x if bracket.is_possible(x) and not bracket.is_tried(x, tried) else None


def _most_telling(fit: Parabola, tried: Sequence[Trial], bracket: Bracket) -> tuple[float, ...]:
    """Return the untried value with which the minimum is known best, none near what diverged.

    Where the minimum lies between what was trained and what diverged, it is tried itself.
    """
    grid = bracket.grid
    if _trained(fit, tried) < fit.best - grid / 2:
        x = bracket.snapped(min(fit.best, ceiling(tried) - grid))
        if not bracket.is_tried(x, tried) and bracket.is_possible(x):
            return (x,)
    steps, known = int(REACH / grid), [t.x for t in finite(tried)]
    near = [bracket.snapped(fit.best) + k * grid for k in range(-steps, steps + 1)]
    free = [x for x in near if bracket.is_possible(x) and not bracket.is_tried(x, tried)]
    wanted = [x for x in free if x < ceiling(tried) - grid]
    return (min(wanted, key=lambda x: error_with(fit, [*known, x])),) if wanted else ()
