"""What do the settings that `escala sweep tune` chooses cost? Simulated losses whose best settings are known.

    OMP_NUM_THREADS=1 python -m benchmarks.tune --tables 400

Log loss = c x^2 in the distance from the best value, and on the upper side + s c x^3. Below, it may level off, as
weight decay does towards 0. Each kind has its own noise of seeds, curvature (per natural logarithm squared), asymmetry,
distance of the first guess, and the point above which runs diverge. The regret is what the chosen value's loss lies
above the best one, without noise.

The last table tunes learning rate, batch and weight decay one after the other on one surface in all three, with or
without a correlation of rate and decay, and with a best rate that goes with another power of the batch than the rule's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from launch.scaling.tune.parabola import Trial
from launch.scaling.tune.search import RATE, WIDE, Bracket, found, next_values


@dataclass(frozen=True)
class Surface:
    """`curvature` of log loss per natural logarithm squared; `off`, `diverges`: octaves from the optimum."""

    name: str
    noise: float
    curvature: tuple[float, float] = (0.002, 0.02)
    steep: float = 0.3
    off: float = 1.5
    diverges: float = math.inf
    level: float = math.inf  # natural logarithm below the optimum about which the loss levels off
    bracket: Bracket = RATE

    def rise(self, x: float, curvature: float) -> float:
        """Return log loss above the optimum, at x octaves from it."""
        if x > self.diverges:
            return math.inf
        z = x * math.log(2)
        below = 1.0 if z > 0 else 1 + (z / self.level) ** 2
        return curvature * (z**2 / below + self.steep * max(z, 0.0) ** 3)


SURFACES = [
    Surface("noise .1 %", 0.001),
    Surface("noise .2 %", 0.002),
    Surface("noise .5 %", 0.005),
    Surface("symmetric", 0.002, steep=0.0),
    Surface("very steep on one side", 0.002, steep=1.0),
    Surface("sharp", 0.002, (0.02, 0.1)),
    Surface("flat", 0.002, (0.0005, 0.002)),
    Surface("first guess off by up to 16x", 0.002, off=4.0),
    Surface("diverges an octave above", 0.002, off=1.5, diverges=1.0),
    Surface("diverges, and off by up to 16x", 0.002, off=4.0, diverges=1.0),
]

FLATTER = (0.001, 0.01)
WIDE_SURFACES = [
    Surface("noise .1 %", 0.001, FLATTER, off=2.0, bracket=WIDE),
    Surface("noise .2 %", 0.002, FLATTER, off=2.0, bracket=WIDE),
    Surface("noise .5 %", 0.005, FLATTER, off=2.0, bracket=WIDE),
    Surface("sharp", 0.002, (0.01, 0.05), off=2.0, bracket=WIDE),
    Surface("flat", 0.002, (0.0002, 0.001), off=2.0, bracket=WIDE),
    Surface("very steep above: past the critical batch", 0.002, FLATTER, steep=1.0, off=2.0, bracket=WIDE),
    Surface("levels off below: weight decay towards 0", 0.002, FLATTER, off=2.0, level=2.0, bracket=WIDE),
    Surface("first guess off by up to 16x", 0.002, FLATTER, off=4.0, bracket=WIDE),
    Surface("bound half below the first guess", 0.002, FLATTER, off=2.0, bracket=Bracket(1.0, 2.0, low=-1.0)),
]


@dataclass(frozen=True)
class Together:
    """A surface in three settings. `correlation`: of rate and decay; `power`: of the best rate in the batch."""

    name: str
    noise: float = 0.002
    correlation: float = 0.0
    power: float = 0.5

    def rise(self, x: dict[str, float], best: dict[str, float], curvature: dict[str, float]) -> float:
        """Return log loss above the optimum, where settings are octaves from the sweep's own."""
        z = {name: (x[name] - best[name]) * math.log(2) for name in best}
        z["lr"] -= self.power * z["batch"]
        cross = 2 * self.correlation * math.sqrt(curvature["lr"] * curvature["weight_decay"])
        steep = sum(0.3 * curvature[name] * max(z[name], 0.0) ** 3 for name in z)
        return sum(curvature[name] * z[name] ** 2 for name in z) + cross * z["lr"] * z["weight_decay"] + steep


TOGETHER = [
    Together("apart"),
    Together("apart, noise .5 %", noise=0.005),
    Together("best rate with the batch to the .3", power=0.3),
    Together("best rate with the batch to the .7", power=0.7),
    Together("rate and decay correlated by .5", correlation=0.5),
    Together("rate and decay correlated by .8", correlation=0.8),
]


@dataclass(frozen=True)
class Outcome:
    """One size tuned: the regret in log loss, how many runs it took, and whether it said that it is not tuned."""

    regret: float
    runs: int
    warned: bool


def tune_one(surface: Surface, seed: int, most: int) -> Outcome:
    """Tune one size of a simulated sweep."""
    random = np.random.default_rng(seed)
    curvature = float(np.exp(random.uniform(*np.log(surface.curvature))))
    best = float(random.uniform(-surface.off, surface.off))
    tried: list[Trial] = []
    while values := next_values(tried, 0.0, most, surface.bracket):
        for x in values:
            noise = surface.noise * float(random.standard_normal())
            tried.append(Trial(x, surface.rise(x - best, curvature) + noise))
    result = found(tried, surface.bracket)
    if result is None:
        return Outcome(math.inf, len(tried), True)
    return Outcome(surface.rise(result.x - best, curvature), len(tried), bool(result.problem))


def tune_together(surface: Together, seed: int, most: int) -> Outcome:
    """Tune rate, batch and weight decay of one size, each with the ones before at their best."""
    random = np.random.default_rng(seed)
    curvature = {"lr": (0.002, 0.02), "batch": FLATTER, "weight_decay": FLATTER}
    own = {name: float(np.exp(random.uniform(*np.log(bounds)))) for name, bounds in curvature.items()}
    best = {name: float(random.uniform(-1.5, 1.5)) for name in curvature}
    at, runs, warned = dict.fromkeys(curvature, 0.0), 0, False
    for name in curvature:
        bracket, tried = RATE if name == "lr" else WIDE, list[Trial]()
        while values := next_values(tried, 0.0, most, bracket):
            for x in values:
                noise = surface.noise * float(random.standard_normal())
                tried.append(Trial(x, surface.rise(_moved(at, name, x), best, own) + noise))
        result = found(tried, bracket)
        runs += len(tried)
        if result is None or result.problem:
            warned = True
        else:
            at = _moved(at, name, result.x)
    return Outcome(surface.rise(at, best, own), runs, warned)


def _moved(at: dict[str, float], name: str, x: float) -> dict[str, float]:
    """Return the settings with one changed; the rate goes with the batch by the rule."""
    lr = at["lr"] + 0.5 * (x - at["batch"]) if name == "batch" else at["lr"]
    return {**at, "lr": lr, name: x}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=400)
    parser.add_argument("--most", type=int, default=5)
    arguments = parser.parse_args()
    tables: dict[str, list[tuple[str, Callable[[int], Outcome]]]] = {
        "learning rate": [(s.name, partial(tune_one, s, most=arguments.most)) for s in SURFACES],
        "batch or weight decay": [(s.name, partial(tune_one, s, most=arguments.most)) for s in WIDE_SURFACES],
        "all three": [(s.name, partial(tune_together, s, most=arguments.most)) for s in TOGETHER],
    }
    for title, rows in tables.items():
        print(f"\n| {title} | runs a size | mean regret | median | 90 % | not tuned, said |\n|---|{'---:|' * 5}")
        for name, tune in rows:
            each = [tune(seed) for seed in range(arguments.tables)]
            regrets = np.array([one.regret for one in each if not one.warned])
            runs, warned = np.mean([one.runs for one in each]), np.mean([one.warned for one in each])
            print(
                f"| {name} | {runs:.1f} | {regrets.mean():.3%} | {np.median(regrets):.3%} | "
                f"{np.quantile(regrets, 0.9):.3%} | {warned:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
