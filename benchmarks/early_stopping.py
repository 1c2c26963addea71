"""Could `escala sweep tune` stop hopeless runs before their end? Simulated loss curves whose ends are known.

    OMP_NUM_THREADS=1 python -m benchmarks.early_stopping --surfaces 210

The curves are those of gradient descent on a noisy quadratic with a power-law spectrum (Zhang et al. 2019, arXiv
1907.04164): each direction forgets its start at its curvature times the rate, and the noise of its gradient adds to its
loss in proportion to the rate. So high rates look bad until a schedule decays, and win late. Spectrum, start, floor,
noise, warm-up and seven schedules vary. Log losses have noise that runs of one data order share, and some of their own.

The first table judges every pair of a run that has ended and another one, by three rules. With `level(u)` the mean log
loss of the tenth of a run before a share u of it, from u = .4 on, a run is stopped where

- gap:      level(u) > best(u) + 1 %, as successive halving does;
- fall:     level(u) - 2 (best(u) - best(1)) > best(1) + 1 %: though it fell twice as far as the best run did;
- fall and lag: the same less what it fell itself since u / 2, which is more than a power law has left.

The second table tunes, and says which share of the steps a rule would have spared if it took nothing from the answer.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.tune.parabola import NOISE, Trial
from launch.scaling.tune.search import next_values

STEPS, LOGGED, MODES, MOST = 500, 5, 600, 5
OCTAVES = np.arange(-9.0, 4.01, 0.5)  # of the rate at which the steepest direction is forgotten in one step
SCHEDULES: dict[str, Callable[[Array, Array], Array]] = {  # of the share of a run, and of what follows its warm-up
    "cosine to .1": lambda u, v: 0.1 + 0.45 * (1 + np.cos(np.pi * v)),
    "cosine to 0": lambda u, v: (1 + np.cos(np.pi * v)) / 2,
    "linear to 0": lambda u, v: 1 - v,
    "wsd, a fifth": lambda u, v: np.minimum(1, (1 - u) / 0.2),
    "wsd, a tenth": lambda u, v: np.minimum(1, (1 - u) / 0.1),
    "wsd, 1 - sqrt": lambda u, v: 1 - np.sqrt(np.clip((u - 0.8) / 0.2, 0, 1)),
    "constant": lambda u, v: np.ones_like(u),
}


FIRST, WINDOW, FEWEST = 0.4, 0.1, 3  # shares of a run before which none is judged, and of its average; its steps
FALLS, MARGIN = 2.0, 5 * NOISE


@dataclass(frozen=True)
class Curve:
    """The training loss of a run. `share` (n,): of its tokens, rising to 1; `log_loss` (n,)."""

    share: Array
    log_loss: Array

    def levels(self, shares: Array) -> Array:
        """Return the mean log loss over the tenth of the run before each share; NaN where too few steps are logged."""
        low, high = (np.searchsorted(self.share, shares + end) for end in (1e-9 - WINDOW, 1e-9))
        sums, count = np.concatenate([[0.0], np.cumsum(self.log_loss)]), high - low
        return np.where(count >= FEWEST, (sums[high] - sums[low]) / np.maximum(count, 1), math.nan)

    @property
    def end(self) -> float:
        """Return its level at its end."""
        return float(self.levels(np.array([1.0]))[0])


@dataclass(frozen=True)
class Run:
    """A simulated run: its recorded curve, and the log loss at its end, without noise."""

    curve: Curve
    end: float


@dataclass(frozen=True)
class Surface:
    """The runs of one size by their rates, in octaves. Those that diverge are missing."""

    schedule: str
    runs: Mapping[float, Run]

    @property
    def best(self) -> float:
        """Return the best rate."""
        return min(self.runs, key=lambda x: self.runs[x].end)


@cache
def surface(seed: int) -> Surface:
    """Simulate one size."""
    random = np.random.default_rng(seed)
    schedule = list(SCHEDULES)[seed % len(SCHEDULES)]
    number = np.arange(1, MODES + 1.0)
    curvature, excess = number ** -random.uniform(1, 2), number ** -(1 + random.uniform(0.1, 1))
    excess *= random.uniform(3, 8) / excess.sum()
    floor, noise = random.uniform(1, 2.8), float(np.exp(random.uniform(*np.log([0.02, 3]))))
    by_loss, warmup = random.random() < 0.5, random.uniform(0.02, 0.12)
    share = (np.arange(STEPS) + 1) / STEPS
    rate = SCHEDULES[schedule](share, np.clip((share - warmup) / (1 - warmup), 0, 1)) * np.minimum(share / warmup, 1)
    state, losses = np.tile(excess, (len(OCTAVES), 1)), np.empty((STEPS, len(OCTAVES)))
    with np.errstate(all="ignore"):
        for step in range(STEPS):
            change = (2**OCTAVES * rate[step])[:, None] * curvature
            size = state.sum(axis=1, keepdims=True) + floor if by_loss else floor
            state = (1 - change) ** 2 * state + change**2 * noise * size
            losses[step] = state.sum(axis=1) + floor
    shared = random.standard_normal(STEPS) * random.uniform(0.005, 0.03)
    runs = {}
    for k, x in enumerate(OCTAVES):
        own = shared + 0.004 * random.standard_normal(STEPS)
        if np.isfinite(losses[:, k]).all() and losses[:, k].max() < 40:
            recorded = (np.log(losses[:, k]) + own)[LOGGED - 1 :: LOGGED]
            runs[float(x)] = Run(Curve(share[LOGGED - 1 :: LOGGED], recorded), math.log(losses[-1, k]))
    return Surface(schedule, runs)


Rule = Callable[[Curve, Curve], float | None]  # the share at which a run is stopped, None for never


def by_gap(run: Curve, best: Curve) -> float | None:
    """Stop what is a margin above the best run at the same share."""
    return _first(run.share, run.levels(run.share) - best.levels(run.share))


def by_fall(run: Curve, best: Curve) -> float | None:
    """Stop what would end above the best run though it fell twice as far."""
    return _first(run.share, run.levels(run.share) - _falls(run.share, best) - best.end)


def by_fall_and_lag(run: Curve, best: Curve) -> float | None:
    """Stop what would end above it though it also fell as far as it did since half as many tokens."""
    at, before = run.levels(run.share), run.levels(run.share / 2)
    return _first(run.share, at - _falls(run.share, best) - np.maximum(before - at, 0) - best.end)


def _falls(share: Array, best: Curve) -> Array:
    return FALLS * np.maximum(best.levels(share) - best.end, 0)


def _first(share: Array, above: Array) -> float | None:
    hit = np.flatnonzero((above > MARGIN) & (share >= FIRST))  # a NaN is no reason
    return float(share[hit[0]]) if len(hit) else None


RULES: dict[str, Rule] = {"gap": by_gap, "fall": by_fall, "fall and lag": by_fall_and_lag}


def pairs(seeds: range, rule: Rule, *, higher: bool) -> tuple[int, int, int, float]:
    """Judge every pair: return how many there are, how many are stopped and would have won, and by how much at most.

    The run that has ended lies at most four octaves from the optimum, the other one at most six from it.
    """
    count, stopped, won, worst = 0, 0, 0, 0.0
    for one in map(surface, seeds):
        for b, best in one.runs.items():
            others = [x for x in one.runs if 0 < (x - b if higher else b - x) <= 6 and abs(b - one.best) <= 4]
            for x in others:
                count, share = count + 1, rule(one.runs[x].curve, best.curve)
                if share is not None:
                    stopped += 1
                    won += one.runs[x].end < best.end
                    worst = max(worst, best.end - one.runs[x].end)
    return count, stopped, won, worst


def spared(one: Surface, off: float, random: np.random.Generator, rules: Mapping[str, bool]) -> tuple[int, Array]:
    """Tune one size, run after run; return its runs, and of how many whole runs each rule would have spared the steps.

    `rules`: whether a rule is asked about higher rates than that of the best run too.
    """
    centre = float(np.clip(round((one.best + random.uniform(-off, off)) * 2) / 2, OCTAVES[0] + 1.5, OCTAVES[-1]))
    tried: list[Trial] = []
    done: dict[float, Curve] = {}
    saved = np.zeros(len(rules))
    while values := next_values(tried, 0.0, MOST):
        for x in values:
            run = one.runs.get(centre + x)
            if run is None:
                tried.append(Trial(x, math.inf))
                continue
            if done:
                best = min(done, key=lambda other: done[other].end)
                stops = [RULES[name](run.curve, done[best]) if up or x < best else None for name, up in rules.items()]
                saved += [0.0 if stop is None else 1 - stop for stop in stops]
            done[x] = run.curve
            tried.append(Trial(x, run.end + NOISE * float(random.standard_normal())))
    return len(tried), saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surfaces", type=int, default=210)
    seeds = range(parser.parse_args().surfaces)
    print("| the run that is judged has | rule | pairs | stopped | of these would have won | by at most |")
    print(f"|---|---|{'---:|' * 4}")
    for higher in (False, True):
        for name, rule in RULES.items():
            count, stopped, won, worst = pairs(seeds, rule, higher=higher)
            rate = "a higher rate" if higher else "a lower rate"
            print(f"| {rate} | {name} | {count:,} | {stopped:,} | {won:,} | {worst:.1%} |", flush=True)
    rules = {"gap": True, "fall and lag": False}
    print(
        "\n| first guess off by | runs a size | spared by gap | by fall and lag, of lower rates |\n|---|---:|---:|---:|"
    )
    for off in (1.5, 4.0):
        each = [spared(surface(seed), off, np.random.default_rng(seed), rules) for seed in seeds]
        runs, shares = sum(count for count, _ in each), np.sum([saved for _, saved in each], axis=0)
        said = " | ".join(f"{share / runs:.1%}" for share in shares)
        print(f"| up to {2**off:.2g}x | {runs / len(each):.2f} | {said} |", flush=True)


if __name__ == "__main__":
    main()
