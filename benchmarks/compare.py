"""Do the intervals of `escala compare` hold the truth, and does it promote what is worth nothing?

    OMP_NUM_THREADS=1 python -m benchmarks.compare --out comparisons.jsonl
    python -m benchmarks.compare --out comparisons.jsonl --summary

Simulated pairs of ladders, L = E + A C^-a, the variant as good as the base with so many times its compute. Each case
is a line of the output; one that is there already is not made again. Development used seeds below 1,000,000, the
figures of the docs those from there on.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.compare.rungs import Arm, Rung
from launch.scaling.compare.shift import Estimate, shift
from launch.scaling.compare.verdict import judge as verdict
from trainer.contract.errors import UserError

E, A, GAMMA = 1.8, 60.0, 0.095  # nats; 3.5 at 1e16 FLOPs and 2.6 at 1e20, as small language models have
SMALLEST, STEP = 1e16, 4.0  # FLOPs of the first rung, and from each to the next
EVALUATION = 1_000_000
SHARES = ("common", "rungs", "trend", "promoted", "refused")


@dataclass(frozen=True)
class Case:
    """`noise`: standard deviation of the loss over seeds, relative. `shared`: correlation of a pair's losses.

    `pairs`: base and variant have the same seeds; else other ones. `alike`: share of the noise's variance that is one
    over all rungs, as where they have one seed: the intervals are not made for that.
    """

    multiplier: float
    noise: float
    sizes: int
    seeds: int
    pairs: bool
    shared: float
    pinned: bool
    alike: float = 0.0

    @property
    def name(self) -> str:
        values = asdict(self)
        return json.dumps(values if self.alike else {k: v for k, v in values.items() if k != "alike"}, sort_keys=True)


def cases() -> Iterator[Case]:
    """Yield every combination."""
    designs = itertools.product((1.0, 1.05, 1.2), (0.001, 0.002, 0.005), (3, 4, 6), (1, 3))
    for (multiplier, noise, sizes, seeds), pinned in itertools.product(designs, (True, False)):
        for pairs, shared in ((True, 0.0), (True, 0.6), (False, 0.0)):
            yield Case(multiplier, noise, sizes, seeds, pairs, shared, pinned)
    for seeds in (1, 3):
        yield Case(1.0, 0.002, 4, seeds, pairs=True, shared=0.0, pinned=True, alike=0.5)


def law(flops: float) -> float:
    return E + A * float(flops**-GAMMA)


def simulate(case: Case, seed: int) -> list[Rung]:
    """Return one pair of ladders. A pair shares so much of its noise."""
    random = np.random.default_rng(seed)
    everywhere = np.random.default_rng([seed, 1]).standard_normal((2, case.seeds))
    rungs = []
    for k in range(case.sizes):
        flops = SMALLEST * STEP**k
        shared, *own = random.standard_normal((3, case.seeds))
        own = [case.alike**0.5 * a + (1 - case.alike) ** 0.5 * o for a, o in zip(everywhere, own, strict=True)]
        base, variant = (case.noise * (case.shared**0.5 * shared + (1 - case.shared) ** 0.5 * one) for one in own)
        one = _arm(flops, flops, base, 0)
        rungs.append(Rung(one, _arm(flops, case.multiplier * flops, variant, 0 if case.pairs else case.seeds)))
    return rungs


def _arm(flops: float, worth: float, errors: Array, first: int) -> Arm:
    """Return the runs of one rung that cost `flops`, as good as the base's of `worth`, with seeds from `first` on."""
    losses = {(str(s), str(s)): law(worth) * float(np.exp(e)) for s, e in enumerate(errors, start=first)}
    return Arm(parameters=1.0, tokens=1.0, flops=flops, seconds=None, losses=losses)


def judge(case: Case, comparisons: int, first: int) -> dict[str, float]:
    """Return shares over many comparisons: of intervals that hold the truth, of promotions and of refusals."""
    truth = float(np.log(case.multiplier))
    held: dict[str, list[bool]] = {"common": [], "rungs": [], "trend": []}
    promoted, refused, width = 0, 0, []
    for seed in range(first, first + comparisons):
        try:
            found = shift(simulate(case, seed), E if case.pinned else None)
        except UserError:
            refused += 1
            continue
        held["common"].append(holds(found.common, truth))
        held["rungs"] += [holds(one, truth) for one in found.rungs if one is not None]
        held["trend"].append(holds(found.trend, 0.0))
        promoted += verdict(found).word == "promote"
        width.append(float(np.diff(found.common.interval)[0]))
    shares = {name: float(np.mean(values)) for name, values in held.items()}
    return {**shares, "promoted": promoted / comparisons, "refused": refused / comparisons, "width": np.median(width)}


def holds(one: Estimate, truth: float) -> bool:
    low, high = one.interval
    return low <= truth <= high


def summarise(path: Path) -> None:
    """Print shares in percent by multiplier, sizes and seeds, over noises, pairs and asymptotes."""
    groups: dict[tuple[float, float, int, int], list[dict[str, float]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        case = json.loads(row["case"])
        key = case.get("alike", 0.0), case["multiplier"], case["sizes"], case["seeds"]
        groups.setdefault(key, []).append(row)
    shares = "common | lowest, highest case | at a rung | trend | promoted | refused"
    print(f"| alike | multiplier | sizes | seeds | {shares} |")
    print("|---|---|---|---|---:|---|---:|---:|---:|---:|")
    for key, members in sorted(groups.items()):
        common, *means = [f"{100 * np.mean([m[name] for m in members]):.1f}" for name in SHARES]
        ends = [m["common"] for m in members]
        cells = [*map(str, key), common, f"{100 * min(ends):.1f}, {100 * max(ends):.1f}", *means]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=500, help="of each case")
    parser.add_argument("--first-seed", type=int, default=EVALUATION)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--summary", action="store_true", help="print the table of what is there, and stop")
    arguments = parser.parse_args()
    if arguments.summary:
        summarise(arguments.out)
        return
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
