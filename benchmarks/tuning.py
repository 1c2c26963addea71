"""Do the intervals of the laws of learning rate and batch hold the truth? Simulated sweeps with known powers.

    OMP_NUM_THREADS=1 python -m benchmarks.tuning --tables 100

Twelve cells (4 sizes x 3 lengths), in each a grid of settings about its optimum, off by up to one step of two. Powers,
curvatures and the correlation of the bowl are drawn anew for each table, the curvature also for each cell. Losses rise
with the cube of the distance on the diverging side.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from launch.scaling.other.tuning import TuningLaw, fit_tuning
from launch.scaling.table.table import Table

STEP = np.log(2)
SPREAD = 0.3  # of the log curvature over cells


@dataclass(frozen=True)
class Kind:
    """`steep`: coefficient of the cube; `wander`: by how much optima leave the law; `joint`: both settings vary."""

    noise: float
    steep: float = 1.0
    wander: float = 0.0
    joint: bool = True


KINDS = [Kind(noise, steep) for noise in (3e-4, 1e-3, 3e-3) for steep in (0.0, 1.0, 3.0)]
KINDS += [Kind(5e-4, joint=False), Kind(2e-3, joint=False), Kind(5e-4, wander=0.15)]


def sweeps(kind: Kind, seed: int) -> tuple[Table, dict[str, float], dict[str, float]]:
    """Return trials and the true powers of lr* and of the best batch."""
    random = np.random.default_rng(seed)
    rate = {"p": random.uniform(-0.8, -0.1), "q": random.uniform(-0.1, 0.4)}
    batch = {"p": random.uniform(-0.1, 0.1), "q": random.uniform(0.2, 0.7)}
    a, c = random.uniform(0.002, 0.02, 2)
    cross = random.uniform(-0.7, 0.7) * np.sqrt(a * c)
    rows = []
    for N in 1e8 * 2.0 ** np.arange(4):
        for D in 5e9 * 4.0 ** np.arange(3):
            off = kind.wander * random.standard_normal(2)
            best = [
                f["p"] * np.log(N / 1e8) + f["q"] * np.log(D / 1e10) + o
                for f, o in zip((rate, batch), off, strict=True)
            ]
            size = np.exp(SPREAD * random.standard_normal())
            starts = [np.round(b / STEP) + random.integers(-1, 2) for b in best]
            for u in STEP * (starts[0] + np.arange(-4, 5)):
                for v in STEP * (starts[1] + np.arange(-4, 4)) if kind.joint else best[1:]:
                    du, dv = u - best[0], v - best[1]
                    rise = a * du**2 + 2 * cross * du * dv + c * dv**2
                    rise += 0.3 * kind.steep * a * max(du - 0.3 * dv, 0.0) ** 3
                    log_loss = 1 + size * rise + kind.noise * random.standard_normal()
                    rows.append((N, D, 1e-3 * np.exp(u), 1e6 * np.exp(v), np.exp(log_loss)))
    columns = dict(zip(("N", "D", "lr", "batch", "loss"), np.array(rows).T, strict=True))
    if not kind.joint:
        del columns["batch"]
    return Table("simulated", "", columns, np.arange(1, len(rows) + 1), {}), rate, batch


def judge(found: TuningLaw, rate: dict[str, float], batch: dict[str, float]) -> list[tuple[bool, float]]:
    """Return for each power whether its interval holds it, and the half width."""
    laws = [(found.law, rate)] + ([] if found.other is None else [(found.other, batch)])
    return [
        (low <= truth[n] <= high, (high - low) / 2) for law, truth in laws for n, (low, high) in law.intervals.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=100)
    arguments = parser.parse_args()
    print("| noise | cube | wander | settings | held | median half width | weak |\n|---|---|---|---|---:|---:|---:|")
    for kind in KINDS:
        judged, weak = [], 0
        for seed in range(arguments.tables):
            table, *truth = sweeps(kind, seed)
            found = fit_tuning(table, "lr", seed=seed)
            weak += bool(found.reasons)
            judged += judge(found, *truth)
        held, width = np.mean([h for h, _ in judged]), np.median([w for _, w in judged])
        settings = "lr and batch" if kind.joint else "lr"
        print(
            f"| {kind.noise:.2%} | {kind.steep:g} | {kind.wander:g} | {settings} | {held:.0%} | {width:.3f} | "
            f"{weak / arguments.tables:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
