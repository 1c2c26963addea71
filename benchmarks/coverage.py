"""Do 95 % intervals hold the truth 95 times in 100? Simulated sweeps of a known law, fitted as `escala fit` does.

    OMP_NUM_THREADS=1 python -m benchmarks.coverage [--tables 200] [--results FILE] [--only "grid 6x5;grid 3x3"]
    OMP_NUM_THREADS=1 python -m benchmarks.coverage --named [--tables 200] [--only "grid-16;isoflop-28"]

The first asks the default command: the law is chosen by hold-out, and counted are the decision's intervals of N* and
the loss at ten times the largest budget, and of one new run of twice the largest N and D, beside the width that the
bootstrap by row of `--law chinchilla` gives. Refused decisions make no claim and are only counted. With `--named` the
law is Chinchilla's and counted are the intervals of its parameters. Some cases break assumptions: runs of one group
share an error, small models are untuned, or the true law is another one; `doubted` is the share of tables whose fit
says so.

Tables of one seed after another are judged in all cases, so that a part of a run says something about each case. Each
is appended to `--results`, where a run that starts again finds it; several processes with one file share the work.
What mends a weakness is developed on other seeds (`--first-seed 10000`) than those that are reported.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.simulated_sweeps import CASES, DECISIONS, TRUTH, Case, best_size, chinchilla, simulate
from launch.scaling.fit.fit import Fitted
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.laws.registry import FIXED
from launch.scaling.questions.judged import judged
from launch.scaling.questions.next_run import Decision, Estimate, decide
from launch.scaling.questions.saved_fit import saved_fit
from launch.scaling.table.clusters import clusters
from launch.scaling.table.table import Table
from launch.scaling.trust.holdout import choose_law
from launch.scaling.trust.residual_tests import doubts
from launch.scaling.trust.study import study
from launch.scaling.trust.verdict import FURTHER

REPLICATES, NEW = 400, 2.0
STATUSES = ("certified", "weak", "refused")
Record = dict[str, Any]  # of one table: its case and seed, the grade, and bools or numbers by name


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


def judge_decision(case: Case, seed: int) -> tuple[str, dict[str, Any]]:
    """Ask the default command about one table; return the grade, what holds the truth, and widths.

    Widths are of logarithms; those of the named law are of `--law chinchilla` with a bootstrap by row. `said` is what
    the decision said, for whoever looks into a table that was missed.
    """
    table = simulate(case, seed)
    chosen = choose_law(table)
    found = judged(study(table, FIXED[chosen.law], fits=chosen.fits), chosen)
    if found.decision is None or found.drawn is None:
        return "refused", {"said": {"reasons": list(found.study.certificate.reasons)}}
    decision, flops = found.decision, FURTHER * float(table.C.max())
    best = best_size(case.surface, flops)
    loss = float(case.surface(np.array(best), np.array(flops / 6 / best)))
    N, D = NEW * float(table.N.max()), NEW * float(table.D.max())
    another = np.random.default_rng([seed, 1]).standard_normal(2) @ (case.sd, case.shared_sd)
    new = float(case.surface(np.array(N), np.array(D)) * np.exp(another))
    named_n, named_loss = _named(table, flops, chosen.fits)
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
        "said": _said(decision) | {"truth": [best, loss], "by": found.drawn.cluster, "laws": dict(chosen.near)},
    }


def _said(decision: Decision) -> Record:
    return {
        "N*": [decision.N.value, decision.N.interval],
        "loss": [decision.loss.value, decision.loss.interval],
        "parts": [[p.what, p.N, p.loss] for p in decision.parts],
        "reasons": [] if decision.verdict is None else list(decision.verdict.reasons),
    }


def _named(table: Table, flops: float, fits: Mapping[str, Fitted]) -> tuple[Estimate, Estimate]:
    """Return N* and the loss by Chinchilla's law alone, with its bootstrap by row."""
    result = study(table, CHINCHILLA, bootstrap=200, seed=42, fits=fits)
    assert result.fitted is not None, "the decision was made, so this law can be fitted"
    decision = decide(saved_fit(result.fitted, "", (), table), flops)
    return decision.N, decision.loss


def holds(pair: tuple[float, float] | None, value: float) -> bool:
    assert pair is not None, "a fit with replicates has intervals"
    return bool(pair[0] <= value <= pair[1])


def width(estimate: Estimate) -> float:
    assert estimate.interval is not None, "a fit with replicates has intervals"
    return float(np.log(estimate.interval[1] / estimate.interval[0]))


def records(cases: dict[str, Case], seeds: range, results: Path | None, *, named: bool) -> Iterator[Record]:
    """Yield the record of each case and seed, those in `results` as they are, others judged and appended there."""
    order = Random()  # processes that share a file begin with different tables
    kept = recorded(results)
    for seed in seeds:
        for name in order.sample(list(cases), len(cases)):
            if (name, seed) not in kept:
                kept = recorded(results)  # another process may have judged it by now
            if (name, seed) in kept:
                yield kept[name, seed]
                continue
            status, found = (judge if named else judge_decision)(cases[name], seed)
            record = {"case": name, "seed": seed, "status": status, **found}
            if results is not None:
                with results.open("a", encoding="utf-8") as file:  # one short write: whole lines, whoever else appends
                    file.write(json.dumps(record) + "\n")
            yield record


def recorded(results: Path | None) -> dict[tuple[str, int], Record]:
    """Return the records of a file by case and seed; none where there is no file yet."""
    if results is None or not results.exists():
        return {}
    *whole, _ = results.read_text(encoding="utf-8").split("\n")  # another process may still write the last line
    return {(r["case"], r["seed"]): r for r in map(json.loads, whole)}


def summary(name: str, found: Iterable[Record]) -> Record:
    """Return shares in percent with their standard error, and median widths, of the tables that were not refused.

    The error is that of a share of two more tables that hold and two that do not: it is not 0 where all hold (Agresti &
    Coull 1998).
    """
    mine = [r for r in found if r["case"] == name]
    kept = [r for r in mine if r["status"] != "refused"]
    shown: Record = {s: sum(r["status"] == s for r in mine) for s in STATUSES}
    for key, value in kept[0].items() if kept else ():
        if isinstance(value, bool):
            held, num = sum(r[key] for r in kept), len(kept) + 4
            error = ((held + 2) / num * (1 - (held + 2) / num) / num) ** 0.5
            shown[key] = [round(100 * held / len(kept), 1), round(100 * error, 1)]
        elif isinstance(value, float):
            shown[key] = round(float(np.median([r[key] for r in kept])), 4)
    return {"case": name, **shown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200, help="of each case")
    parser.add_argument("--first-seed", type=int, default=0, help="of the tables' seeds, which follow one another")
    parser.add_argument("--results", type=Path, help="a JSON lines file of tables that are done")
    parser.add_argument("--only", help="names of cases, separated by semicolons")
    parser.add_argument("--named", action="store_true", help="parameters of Chinchilla's law, not the default command")
    args = parser.parse_args()
    known = CASES if args.named else DECISIONS
    cases = {name: known[name] for name in args.only.split(";")} if args.only else known
    seeds = range(args.first_seed, args.first_seed + args.tables)
    found = list(records(cases, seeds, args.results, named=args.named))
    for name in cases:
        print(json.dumps(summary(name, found)))


if __name__ == "__main__":
    main()
