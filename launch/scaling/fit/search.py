"""The search for the best optimum: from many starts, about the best, and along valleys where starts disagree.

Nothing is ever given up for something higher: the solution is the lowest point of all that were visited.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.large import is_large, thin
from launch.scaling.fit.lbfgs import follow
from launch.scaling.fit.newton import Solutions, minimise
from launch.scaling.fit.problem import Problem
from launch.scaling.laws.base import WithCorners

SAME_OPTIMUM = 1e-6  # relative difference of objectives below which two starts agree
ROUNDING = 1e-24  # objective per row that is only rounding: a noise-free surface
STEPS_FROM_START = 200  # a start that is not there by then counts as one that disagrees
ROUGH, FEW_POLISHED = 50, 2  # where laws are only compared: steps from the starts, and how many are then polished
POLISHED, MOST_STEPS = 8, 300  # of the best starts, so that a slow valley is followed to its end
UNSURE, DOUBTFUL = 0.5, 0.2  # shares of starts below which jumps are tried, and valleys followed
ROUNDS, SETTLED = 2, 1e-10  # of looking about the best, until it gains less than this share
NEAR = np.geomspace(0.005, 0.3, 16)  # how far off its neighbours are, in logarithms and exponents
FAR = np.tile(np.geomspace(0.3, 8.0, 8), 2)  # jumps of few parameters
MOVED = 0.4  # share of the parameters that a jump moves
ALONG = (-1.0, 0.5, 2.0)  # steps from the best along its differences to other solutions: valleys are long
SHAKES = (0.3, 1.0, 3.0)  # how far starts are shaken
SPRINT, RUN = 50, 75  # steps after which only the best of many candidates go on, and their further steps
ROWS, BROADEST = 300, 4  # rows for which these numbers are meant, and how many times more fewer rows may have
VALLEYS = 4  # of the best that are followed
EVALUATIONS, TO_THE_END = 250, 600  # of each valley, and of the best one


@dataclass(frozen=True)
class Found:
    """The best solution, and the share of the starts that end there."""

    theta: Array  # (p,)
    objective: float
    gradient_norm: float
    share: float


def search(problem: Problem, *, every_start: int = 1) -> Found:
    """Return the best optimum that is found.

    With `every_start` above 1 only every k-th start is taken and nothing is searched about the best. Of a large table a
    part of the rows is searched, and the best that it finds is polished on all of them.
    """
    if is_large(problem):
        part = _search(thin(problem), every_start)
        found = minimise(problem, part.theta[None], max_steps=MOST_STEPS)
        return Found(found.theta[0], float(found.objective[0]), float(found.gradient_norm[0]), part.share)
    return _search(problem, every_start)


def _search(problem: Problem, every_start: int) -> Found:
    law = problem.law
    start = law.starts(problem.x, problem.loss)[::every_start]
    thorough = every_start == 1
    first = minimise(problem, start, max_steps=STEPS_FROM_START if thorough else ROUGH)
    heights, leaders = first.objective, _ordered(first)
    if thorough and isinstance(law, WithCorners):
        leaders = _merged(leaders, _race(problem, law.corners(problem.x, problem.loss)))
    polished = POLISHED if thorough else FEW_POLISHED
    leaders = _ordered(minimise(problem, leaders.theta[:polished], max_steps=MOST_STEPS))
    if thorough:
        agreeing = _share(heights, leaders, problem.rows)
        if agreeing < UNSURE:
            leaders = _merged(leaders, _race(problem, _shaken(start, _breadth(problem))))
        leaders = _look_about(problem, leaders, jumping=agreeing < UNSURE)
        if agreeing < DOUBTFUL:
            leaders = _through_valleys(problem, leaders)
    share = _share(heights, leaders, problem.rows)
    return Found(leaders.theta[0], float(leaders.objective[0]), float(leaders.gradient_norm[0]), share)


def _look_about(problem: Problem, leaders: Solutions, *, jumping: bool) -> Solutions:
    """Polish neighbours of the best: robust objectives have optima next to one another."""
    for round_ in range(ROUNDS):
        before = leaders.objective[0]
        near = _around(leaders.theta, _breadth(problem) if jumping else 0, np.random.default_rng(round_))
        leaders = _merged(leaders, _race(problem, near) if jumping else minimise(problem, near, max_steps=MOST_STEPS))
        if _settled(problem, before, leaders):
            break
    return leaders


def _through_valleys(problem: Problem, leaders: Solutions) -> Solutions:
    """Follow the valleys of the best few, and that of the very best to its end."""
    ends = follow(problem, leaders.theta[:VALLEYS], EVALUATIONS)
    leaders = _merged(leaders, minimise(problem, ends, max_steps=RUN))
    for _ in range(ROUNDS):
        before = leaders.objective[0]
        end = follow(problem, leaders.theta[:1], TO_THE_END)
        leaders = _look_about(problem, _merged(leaders, minimise(problem, end, max_steps=MOST_STEPS)), jumping=True)
        if _settled(problem, before, leaders):
            break
    return leaders


def _race(problem: Problem, candidates: Array) -> Solutions:
    """Polish many candidates a little and the best few of them further."""
    ahead = _ordered(minimise(problem, candidates, max_steps=SPRINT)).theta[:POLISHED]
    return minimise(problem, ahead, max_steps=RUN)


def _settled(problem: Problem, before: float, leaders: Solutions) -> bool:
    return bool(leaders.objective[0] >= before * (1 - SETTLED) - ROUNDING * problem.rows)


def _breadth(problem: Problem) -> int:
    """Return how many times as many candidates a small table affords, at the cost of one of many rows."""
    return int(np.clip(ROWS // problem.rows, 1, BROADEST))


def _shaken(start: Array, breadth: int) -> Array:
    random = np.random.default_rng(0)
    many = np.tile(start, (breadth, 1))
    return many + random.choice(SHAKES, (len(many), 1)) * random.standard_normal(many.shape)


def _around(leaders: Array, breadth: int, random: np.random.Generator) -> Array:
    """Return starts about the first of the leaders (K, p): neighbours, and with a breadth also jumps."""
    best, size = leaders[0], leaders.shape[1]
    near = [best + NEAR[:, None] * random.standard_normal((len(NEAR), size))]
    if breadth:
        far = np.tile(FAR, breadth)[:, None]
        moved = random.random((len(far), size)) < MOVED
        near.append(best + far * moved * random.standard_normal((len(far), size)))
        near += [best + along * (leaders[1:VALLEYS] - best) for along in ALONG]
    return np.concatenate(near)


def _ordered(found: Solutions) -> Solutions:
    order = np.argsort(found.objective, kind="stable")
    return Solutions(found.theta[order], found.objective[order], found.gradient_norm[order])


def _merged(leaders: Solutions, found: Solutions) -> Solutions:
    """Return the best of both, as many as there were leaders."""
    both = _ordered(
        Solutions(
            np.concatenate([leaders.theta, found.theta]),
            np.concatenate([leaders.objective, found.objective]),
            np.concatenate([leaders.gradient_norm, found.gradient_norm]),
        )
    )
    kept = len(leaders.theta)
    return Solutions(both.theta[:kept], both.objective[:kept], both.gradient_norm[:kept])


def _share(heights: Array, leaders: Solutions, rows: int) -> float:
    """Return the share of the starts' objectives that are the best one."""
    return float(np.mean(heights <= leaders.objective[0] * (1 + SAME_OPTIMUM) + ROUNDING * rows))
