"""Do the intervals of `escala compare` hold the truth, and does it promote what is worth nothing?

    OMP_NUM_THREADS=1 python -m benchmarks.compare --out comparisons.jsonl

Simulated pairs of ladders, L = E + A C^-a, the variant as good as the base with so many times its compute. Each case
has comparisons of its own; every case is a line of the output, and one that is there already is not made again.
Development used seeds below 1,000,000, the figures of the docs those from there on.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from launch.scaling.compare.rungs import Rung, Side
from launch.scaling.compare.shift import shift
from trainer.contract.errors import UserError

E, A, GAMMA = 1.8, 60.0, 0.095  # nats; 3.5 at 1e16 FLOPs and 2.5 at 1e20, as small language models have
SMALLEST, STEP = 1e16, 4.0  # FLOPs of the first rung, and from each to the next
EVALUATION = 1_000_000


@dataclass(frozen=True)
class Case:
    """`noise`: standard deviation of the loss over seeds, relative. `shared`: correlation of a pair's losses."""

    multiplier: float
    noise: float
    sizes: int
    seeds: int
    shared: float
    pinned: bool

    @property
    def name(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def cases() -> Iterator[Case]:
    """Yield every combination."""
    for values in itertools.product(
        (1.0, 1.05, 1.2), (0.001, 0.002, 0.005), (3, 4, 6), (1, 2, 3), (0.0, 0.6), (True, False)
    ):
        yield Case(*values)


def law(flops: float) -> float:
    return E + A * flops**-GAMMA


def simulate(case: Case, seed: int) -> list[Rung]:
    """Return one pair of ladders. A pair shares its seed, and so much of its noise."""
    random = np.random.default_rng(seed)
    rungs = []
    for k in range(case.sizes):
        flops = SMALLEST * STEP**k
        shared, one, other = random.standard_normal((3, case.seeds))
        own = (1 - case.shared) ** 0.5
        base, variant = (case.noise * (case.shared**0.5 * shared + own * e) for e in (one, other))
        sides = [
            Side(1.0, 1.0, flops, None, {(str(s), str(s)): law(c) * float(np.exp(e)) for s, e in enumerate(errors)})
            for c, errors in ((flops, base), (case.multiplier * flops, variant))
        ]
        rungs.append(Rung(*sides))
    return rungs


def judge(case: Case, comparisons: int, first: int) -> dict[str, float]:
    """Return shares over many comparisons: intervals that hold the truth, and verdicts."""
    truth = float(np.log(case.multiplier))
    held: dict[str, list[bool]] = {"common": [], "largest": [], "smallest": [], "trend": []}
    promoted, refused, width = 0, 0, []
    for seed in range(first, first + comparisons):
        try:
            found = shift(simulate(case, seed), E if case.pinned else None)
        except UserError:
            refused += 1
            continue
        estimates = {"common": found.common, "smallest": found.rungs[0], "largest": found.rungs[-1]}
        for name, one in estimates.items():
            held[name].append(one.interval[0] <= truth <= one.interval[1])
        held["trend"].append(found.trend.interval[0] <= 0 <= found.trend.interval[1])
        promoted += found.common.interval[0] > 0
        width.append(float(np.diff(found.common.interval)[0]))
    return {name: float(np.mean(values)) for name, values in held.items()} | {
        "promoted": promoted / comparisons, "refused": refused / comparisons, "width": float(np.median(width)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=500, help="of each case")
    parser.add_argument("--first-seed", type=int, default=EVALUATION)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    known = {json.loads(line)["case"] for line in lines}
    for number, case in enumerate(cases()):
        if case.name in known:
            continue
        first = arguments.first_seed + number * arguments.comparisons
        row = {"case": case.name, **judge(case, arguments.comparisons, first)}
        with arguments.out.open("a") as out:
            out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
