"""Which values of a setting to try next at one size. A pure function of what was tried.

A bracket of three, further ones past an edge until the best lies inside, then one at a time where it tells most of the
minimum, until the expected regret is small or the runs are spent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from launch.scaling.tune.parabola import Parabola, Trial, ceiling, error_with, finite, fit_parabola

GRID = 0.5  # octaves: values are rounded to it, so that a question asked again has the same answer
STEP = 1.5  # octaves between the values of a bracket
FURTHEST = 4.0  # octaves past an edge in one stride
SMALL_REGRET = 0.0002  # of log loss, expected: with less than this a size is tuned
TOLERABLE = 0.001  # of log loss, expected: with more a size is not tuned
REACH = 3.0  # octaves about the minimum in which a further trial is sought


@dataclass(frozen=True)
class Found:
    """The best value of one size, in octaves from the sweep's own. `error`: its standard error."""

    x: float
    error: float
    curvature: float
    problem: str = ""  # why it may not be believed; empty: the optimum lies inside what was tried


def next_values(tried: Sequence[Trial], centre: float, most: int) -> tuple[float, ...]:
    """Return the values to be tried now at one size, in octaves; none where it is done or `most` runs are spent."""
    left = most - len(tried)
    if left <= 0:
        return ()
    if len(tried) < 3:
        middle = _snapped(centre)
        bracket = (middle, middle - STEP, middle + STEP)
        wanted = tuple(x for x in bracket if not _is_tried(x, tried))
        return wanted[: min(left, 3 - len(tried))]
    fit = fit_parabola(tried)
    if fit is None:
        return (min(t.x for t in tried) - 2 * STEP,)
    if (edge := _past_the_edge(tried, fit)) is not None:
        return (edge,)
    lost = fit.regret + fit.rise(_trained(fit, tried))
    return () if lost <= SMALL_REGRET else _most_telling(fit, tried)


def found(tried: Sequence[Trial]) -> Found | None:
    """Return the best value by what was tried; None where no run came to an end."""
    fit, good = fit_parabola(tried), finite(tried)
    if fit is None:
        return None
    best = min(good, key=lambda t: t.log_loss)
    if edge := _open_edge(tried, best):
        return Found(best.x, fit.error, fit.curvature, f"the best value is the {edge} that was tried")
    x = _trained(fit, tried)
    lost = fit.regret + fit.rise(x)
    vague = f"the optimum is known poorly: {lost:.2%} of the loss is expected to be lost"
    return Found(x, fit.error, fit.curvature, vague if lost > TOLERABLE else "")


def _trained(fit: Parabola, tried: Sequence[Trial]) -> float:
    """Return the best value; where larger ones diverged at most the largest that did not: nobody knows in between."""
    return fit.best if math.isinf(ceiling(tried)) else min(fit.best, finite(tried)[-1].x)


def _open_edge(tried: Sequence[Trial], best: Trial) -> str:
    """Say at which edge the optimum may lie beyond what was tried; a run that diverged above bounds it."""
    if not any(t.x < best.x for t in tried):
        return "lowest"
    return "" if any(t.x > best.x for t in tried) else "highest"


def _past_the_edge(tried: Sequence[Trial], fit: Parabola) -> float | None:
    """Return a value past the edge at which the best one lies; None where it lies inside."""
    best = min(finite(tried), key=lambda t: t.log_loss)
    edge = _open_edge(tried, best)
    if not edge:
        return None
    sign = 1 if edge == "highest" else -1
    return _snapped(best.x + sign * min(max(sign * (fit.best - best.x) + STEP, STEP), FURTHEST))


def _most_telling(fit: Parabola, tried: Sequence[Trial]) -> tuple[float, ...]:
    """Return the untried value with which the minimum is known best, none near what diverged.

    Where the minimum lies between what was trained and what diverged, it is tried itself.
    """
    if _trained(fit, tried) < fit.best - GRID / 2:
        x = _snapped(min(fit.best, ceiling(tried) - GRID))
        if not _is_tried(x, tried):
            return (x,)
    steps, known = int(REACH / GRID), [t.x for t in finite(tried)]
    wanted = [_snapped(fit.best) + k * GRID for k in range(-steps, steps + 1)]
    wanted = [x for x in wanted if x < ceiling(tried) - GRID and not _is_tried(x, tried)]
    return (min(wanted, key=lambda x: error_with(fit, [*known, x])),) if wanted else ()


def _snapped(x: float) -> float:
    return round(x / GRID) * GRID


def _is_tried(x: float, tried: Sequence[Trial]) -> bool:
    return any(abs(x - t.x) < GRID / 2 for t in tried)
