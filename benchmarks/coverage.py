"""Do 95 % intervals hold the truth 95 times in 100? Simulated sweeps of a known law, fitted as `escala fit` does.

    OMP_NUM_THREADS=1 python -m benchmarks.coverage [--tables 200] [--only "grid-16;isoflop-28"]

Each table is a design of runs on the surface of Besiroglu et al. 2024 with noise; the fit knows only the table. Counted
are the intervals of the parameters, of N* and the loss at ten times the largest budget, and of one new run of twice the
largest N and D, four times the largest budget. Tables whose certificate is a refusal make no claim and are only
counted. The last cases break the assumptions: runs of one size share an error, or the true law is another one than that
fitted; `doubted` is the share of tables whose fit says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.optimum import golden_section
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.questions.next_run import decide
from launch.scaling.questions.saved_fit import saved_fit
from launch.scaling.table.clusters import clusters
from launch.scaling.table.table import Table
from launch.scaling.trust.residual_tests import doubts
from launch.scaling.trust.study import study

TRUTH = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}
REPLICATES, FURTHER, NEW = 400, 10.0, 2.0
Surface = Callable[[Array, Array], Array]


def chinchilla(N: Array, D: Array) -> Array:
    """The surface of Besiroglu et al. 2024, arXiv 2404.10102."""
    return np.asarray(TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"])


def coupled(N: Array, D: Array) -> Array:
    """An outer exponent of 0.6: N and D help each other, which Chinchilla's sum cannot say."""
    return np.asarray(TRUTH["E"] + ((2.3e4 / N**0.58) + (3.1e5 / D**0.61)) ** 0.6)


def without_floor(N: Array, D: Array) -> Array:
    """Two powers alone, E = 0."""
    return np.asarray(8 / N**0.09 + 60 / D**0.2)


def narrow(sizes: int, horizons: int) -> tuple[Array, Array]:
    """Sizes within a factor of 1.5."""
    N, D = np.geomspace(1e8, 1.5e8, sizes), np.geomspace(1e10, 3e11, horizons)
    return N.repeat(horizons), np.tile(D, sizes)


def grid(sizes: int, horizons: int) -> tuple[Array, Array]:
    N, D = np.geomspace(5e7, 1e9, sizes), np.geomspace(1e9, 2e10, horizons)
    return N.repeat(horizons), np.tile(D, sizes)


def isoflop(budgets: int, sizes: int) -> tuple[Array, Array]:
    C = np.geomspace(1e18, 6.4e19, budgets)
    best = 0.09 * (C / 6) ** 0.514
    N = (best[:, None] * np.geomspace(0.25, 4, sizes)).ravel()
    return N, C.repeat(sizes) / 6 / N


def scattered(runs: int) -> tuple[Array, Array]:
    random = np.random.default_rng(5)
    return 10 ** random.uniform(7.5, 10, runs), 10 ** random.uniform(9, 11.5, runs)


@dataclass(frozen=True)
class Case:
    """Where runs lie, how they scatter (log loss), and what the truth is."""

    places: tuple[Array, Array]
    sd: float = 0.003
    tails: int = 0  # degrees of freedom of Student's t; 0: normal
    shared_sd: float = 0.0  # an error that all runs of one size share
    cluster: str | None = None  # how the bootstrap draws
    surface: Surface = chinchilla


CASES: dict[str, Case] = {
    "grid-8": Case(grid(4, 2)),
    "grid-16": Case(grid(4, 4)),
    "isoflop-28": Case(isoflop(4, 7)),
    "isoflop-28, heavy tails": Case(isoflop(4, 7), tails=3),
    "isoflop-28, sd 2 %": Case(isoflop(4, 7), sd=0.02),
    "grid-60": Case(grid(10, 6)),
    "grid-60, heavy tails": Case(grid(10, 6), tails=3),
    "scattered-240": Case(scattered(240)),
    "grid-60, sizes share errors": Case(grid(10, 6), sd=0.001, shared_sd=0.003),
    "the same, --cluster N": Case(grid(10, 6), sd=0.001, shared_sd=0.003, cluster="N"),
    "grid-16, sizes share errors, --cluster N": Case(grid(4, 4), sd=0.001, shared_sd=0.003, cluster="N"),
    "grid-20, the same": Case(grid(5, 4), sd=0.001, shared_sd=0.003, cluster="N"),
    "grid-36, the same": Case(grid(6, 6), sd=0.001, shared_sd=0.003, cluster="N"),
    "grid-30, no floor, sd .2 %": Case(grid(6, 5), sd=0.002, surface=without_floor),
    "narrow-60": Case(narrow(10, 6)),
    "grid-60, another true law": Case(grid(10, 6), surface=coupled),
}


def simulate(case: Case, seed: int) -> Table:
    """Return one table of the case."""
    random, (N, D) = np.random.default_rng(seed), case.places
    noise = random.standard_normal(len(N))
    if case.tails:
        noise = random.standard_t(case.tails, len(N)) / (case.tails / (case.tails - 2)) ** 0.5
    sizes, index = np.unique(N, return_inverse=True)
    shared = case.shared_sd * random.standard_normal(len(sizes))[index]
    loss = case.surface(N, D) * np.exp(case.sd * noise + shared)
    columns = {"N": N, "D": D, "C": 6 * N * D, "loss": loss}
    return Table("simulated", str(seed), columns, np.arange(1, len(N) + 1), {})


def best_size(surface: Surface, flops: float) -> float:
    """Return the true N* of a budget."""
    low, high = np.log([[1e5], [1e13]])
    return float(np.exp(golden_section(lambda n: surface(np.exp(n), flops / 6 / np.exp(n)), low, high)[0]))


def judge(case: Case, seed: int) -> tuple[str, dict[str, bool]]:
    """Fit one table; return its certificate's status and which intervals hold the truth."""
    table = simulate(case, seed)
    groups = None if case.cluster is None else clusters(table, case.cluster)
    result = study(table, CHINCHILLA, bootstrap=REPLICATES, seed=42, cluster=groups)
    if result.certificate.status == "refused" or result.fitted is None:
        return "refused", {}
    saved = saved_fit(result.fitted, "", (), table)
    flops = FURTHER * float(table.C.max())
    decision, best = decide(saved, flops), best_size(case.surface, flops)
    truths: dict[str, tuple[float, Any]] = {
        "N* at 10x": (best, decision.N.interval),
        "loss at 10x": (float(case.surface(np.array(best), np.array(flops / 6 / best))), decision.loss.interval),
    }
    if case.surface is chinchilla:
        profiles = result.certificate.intervals(CHINCHILLA)
        truths |= {name: (TRUTH[name], pair) for name, pair in result.intervals().items()}
        truths |= {f"{name} (profile)": (TRUTH[name], pair) for name, pair in profiles.items()}
    N, D = NEW * float(table.N.max()), NEW * float(table.D.max())
    another = np.random.default_rng([seed, 1]).standard_normal(2) @ (case.sd, case.shared_sd)
    new = float(case.surface(np.array(N), np.array(D)) * np.exp(another))
    truths["a new run at 4x"] = (new, saved.new_run(N=N, D=D)[1])
    found: dict[str, bool] = {"doubted": bool(doubts(result.fitted, table, case.cluster))}
    return result.certificate.status, found | {k: pair[0] <= value <= pair[1] for k, (value, pair) in truths.items()}


def run(name: str, tables: int) -> dict[str, Any]:
    """Return shares in percent of the tables that were not refused."""
    found = [judge(CASES[name], seed) for seed in range(tables)]
    kept = [holds for status, holds in found if status != "refused"]
    keys = list(kept[0]) if kept else []
    statuses = {s: sum(1 for status, _ in found if status == s) for s in ("certified", "weak", "refused")}
    return {"case": name, **statuses, **{k: round(100 * float(np.mean([h[k] for h in kept])), 1) for k in keys}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--only", help="names of cases, separated by semicolons")
    args = parser.parse_args()
    for name in args.only.split(";") if args.only else CASES:
        print(json.dumps(run(name, args.tables)))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
