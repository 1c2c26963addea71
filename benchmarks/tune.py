"""What does the learning rate that `escala sweep tune` chooses cost? Simulated losses whose best rate is known.

    OMP_NUM_THREADS=1 python -m benchmarks.tune --tables 400

Log loss = c x^2 in the distance from the best rate, and on the diverging side + s c x^3. Each kind has its own noise of
seeds, curvature (per natural logarithm squared), asymmetry, distance of the first guess, and the point above which runs
diverge. The regret is what the chosen value's loss lies above the best one, without noise.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np

from launch.scaling.tune.parabola import Trial
from launch.scaling.tune.search import found, next_values


@dataclass(frozen=True)
class Surface:
    """`curvature` of log loss per natural logarithm squared; `off`, `diverges`: octaves from the optimum."""

    name: str
    noise: float
    curvature: tuple[float, float] = (0.002, 0.02)
    steep: float = 0.3
    off: float = 1.5
    diverges: float = math.inf

    def rise(self, x: float, curvature: float) -> float:
        """Return log loss above the optimum, at x octaves from it."""
        if x > self.diverges:
            return math.inf
        z = x * math.log(2)
        return curvature * (z**2 + self.steep * max(z, 0.0) ** 3)


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
    while values := next_values(tried, 0.0, most):
        for x in values:
            noise = surface.noise * float(random.standard_normal())
            tried.append(Trial(x, surface.rise(x - best, curvature) + noise))
    result = found(tried)
    if result is None:
        return Outcome(math.inf, len(tried), True)
    return Outcome(surface.rise(result.x - best, curvature), len(tried), bool(result.problem))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=400)
    parser.add_argument("--most", type=int, default=5)
    arguments = parser.parse_args()
    print("| surface | runs a size | mean regret | median | 90 % | not tuned, said |\n|---|---:|---:|---:|---:|---:|")
    for surface in SURFACES:
        each = [tune_one(surface, seed, arguments.most) for seed in range(arguments.tables)]
        regrets = np.array([one.regret for one in each if not one.warned])
        runs, warned = np.mean([one.runs for one in each]), np.mean([one.warned for one in each])
        print(
            f"| {surface.name} | {runs:.1f} | {regrets.mean():.3%} | {np.median(regrets):.3%} | "
            f"{np.quantile(regrets, 0.9):.3%} | {warned:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
