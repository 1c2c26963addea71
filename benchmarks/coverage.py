"""Do 95 % intervals hold the truth 95 times in 100? Simulated sweeps of a known law, fitted as `escala fit` does.

    OMP_NUM_THREADS=1 python -m benchmarks.coverage [--tables 200] [--only "grid 6x5;grid 3x3"] [--processes 2]
    OMP_NUM_THREADS=1 python -m benchmarks.coverage --named [--tables 200] [--only "grid-16;isoflop-28"]

The first asks the default command: the law is chosen by hold-out, and counted are the decision's intervals of N* and
the loss at ten times the largest budget, and of one new run of twice the largest N and D, beside the width that the
bootstrap by row of `--law chinchilla` gives. Refused decisions make no claim and are only counted. With `--named` the
law is Chinchilla's and counted are the intervals of its parameters. Some cases break assumptions: runs of one group
share an error, small models are untuned, or the true law is another one; `doubted` is the share of tables whose fit
says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.simulated_sweeps import CASES, DECISIONS, TRUTH, Case, best_size, chinchilla, simulate
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.laws.registry import FIXED
from launch.scaling.questions.judged import judged
from launch.scaling.questions.next_run import Estimate, decide
from launch.scaling.questions.saved_fit import saved_fit
from launch.scaling.table.clusters import clusters
from launch.scaling.table.table import Table
from launch.scaling.trust.holdout import choose_law
from launch.scaling.trust.residual_tests import doubts
from launch.scaling.trust.study import study
from launch.scaling.trust.verdict import FURTHER

REPLICATES, NEW = 400, 2.0
STATUSES = ("certified", "weak", "refused")


def judge(case: Case, seed: int) -> tuple[str, dict[str, bool]]:
    """Fit Chinchilla's law to one table; return its certificate's status and which intervals hold the truth."""
    table = simulate(case, seed)
    groups = None if case.cluster is None else clusters(table, case.cluster)
    result = study(table, CHINCHILLA, bootstrap=REPLICATES, seed=42, cluster=groups)
    if result.certificate.status == "refused" or result.fitted is None:
        return "refused", {}
    found: dict[str, bool] = {"doubted": bool(doubts(result.fitted, table, case.cluster))}
    if case.surface is chinchilla:
        profiles = result.certificate.intervals(CHINCHILLA)
        found |= {name: holds(pair, TRUTH[name]) for name, pair in result.intervals().items()}
        found |= {f"{name} (profile)": holds(pair, TRUTH[name]) for name, pair in profiles.items()}
    return result.certificate.status, found


def judge_decision(case: Case, seed: int) -> tuple[str, dict[str, float]]:
    """Ask the default command about one table; return the grade, what holds the truth, and widths.

    Widths are of logarithms; those of the named law are of `--law chinchilla` with a bootstrap by row.
    """
    table = simulate(case, seed)
    chosen = choose_law(table)
    found = judged(study(table, FIXED[chosen.law]), chosen)
    if found.decision is None:
        return "refused", {}
    decision, flops = found.decision, FURTHER * float(table.C.max())
    best = best_size(case.surface, flops)
    loss = float(case.surface(np.array(best), np.array(flops / 6 / best)))
    N, D = NEW * float(table.N.max()), NEW * float(table.D.max())
    another = np.random.default_rng([seed, 1]).standard_normal(2) @ (case.sd, case.shared_sd)
    new = float(case.surface(np.array(N), np.array(D)) * np.exp(another))
    named_n, named_loss = _named(table, flops)
    return found.study.certificate.status, {
        "N* held": holds(decision.N.interval, best),
        "loss held": holds(decision.loss.interval, loss),
        "new run held": holds(found.saved.new_run(N=N, D=D)[1], new),
        "doubted": bool(found.doubts),
        "N* held by the named law": holds(named_n.interval, best),
        "loss held by the named law": holds(named_loss.interval, loss),
        "width of N*": width(decision.N),
        "width of N* by the named law": width(named_n),
        "width of the loss": width(decision.loss),
        "width of the loss by the named law": width(named_loss),
    }


def _named(table: Table, flops: float) -> tuple[Estimate, Estimate]:
    """Return N* and the loss by Chinchilla's law alone, with its bootstrap by row."""
    result = study(table, CHINCHILLA, bootstrap=200, seed=42)
    assert result.fitted is not None, "the decision was made, so this law can be fitted"
    decision = decide(saved_fit(result.fitted, "", (), table), flops)
    return decision.N, decision.loss


def holds(pair: tuple[float, float] | None, value: float) -> bool:
    assert pair is not None, "a fit with replicates has intervals"
    return pair[0] <= value <= pair[1]


def width(estimate: Estimate) -> float:
    assert estimate.interval is not None, "a fit with replicates has intervals"
    return float(np.log(estimate.interval[1] / estimate.interval[0]))


def run(name: str, tables: int, pool: ProcessPoolExecutor, *, named: bool) -> dict[str, Any]:
    """Return shares in percent, and median widths, of the tables that were not refused."""
    case: Case = (CASES if named else DECISIONS)[name]
    found = list(pool.map(partial(judge if named else judge_decision, case), range(tables)))
    grades = Counter(status for status, _ in found)
    kept = [values for status, values in found if status != "refused"]
    shown: dict[str, float] = {}
    for key in kept[0] if kept else ():
        values = [v[key] for v in kept]
        shown[key] = round(float(np.median(values)), 4) if "width" in key else round(100 * np.mean(values), 1)
    return {"case": name, **{s: grades[s] for s in STATUSES}, **shown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--only", help="names of cases, separated by semicolons")
    parser.add_argument("--named", action="store_true", help="parameters of Chinchilla's law, not the default command")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.processes) as pool:
        for name in args.only.split(";") if args.only else CASES if args.named else DECISIONS:
            print(json.dumps(run(name, args.tables, pool, named=args.named)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
