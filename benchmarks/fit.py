"""How fast and how good is a fit, against the published reference procedure on the same table in the same process?

    OMP_NUM_THREADS=1 python -m benchmarks.fit [--table epoch.csv --drop-highest-loss 5] [--share 0.05]

The reference is that of Besiroglu et al. 2024 (arXiv 2404.10102): 4500 L-BFGS starts with numeric gradients,
then 4000 bootstraps by BFGS with analytic gradients. With `--share` below 1 it runs that part of both, chosen at
random, and its times are scaled up; ours always runs in full. With the whole of it, the reference's intervals are the
published ones. Without `--table` a synthetic table of 240 runs is used.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from launch.commands.tables import drop_highest
from launch.scaling.fit.fit import fit_law
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.report.write import build, render
from launch.scaling.table.load import load
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import row_weights, weighted_bootstrap
from launch.scaling.trust.study import study

GRID = {
    "a": np.arange(0, 30, 5),
    "b": np.arange(0, 30, 5),
    "e": np.arange(-1, 1.5, 0.5),
    "alpha": np.arange(0, 2.5, 0.5),
    "beta": np.arange(0, 2.5, 0.5),
}
BOOTSTRAPS, DELTA, SEED = 4000, 1e-3, 42
SAME = 1e-5  # relative difference of objectives that counts as the same optimum
SURFACE = {"E": 1.82, "A": 480.0, "B": 2100.0, "alpha": 0.347, "beta": 0.367}


def objective(theta: Any, x: Any, y: Any, target: Any, weights: Any) -> tuple[float, Any]:
    """Return the reference's objective, Huber on log loss by log-sum-exp, and its gradient."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * x, b - beta * y, np.full_like(x, e)])
    top = terms.max(axis=0)
    total = top + np.log(np.exp(terms - top).sum(axis=0))
    residual = total - target
    size = np.abs(residual)
    near = np.minimum(size, DELTA)
    pull = weights * np.clip(residual, -DELTA, DELTA)
    share = np.exp(terms - total)
    gradient = [pull @ share[0], pull @ share[1], pull @ share[2], -(pull * x) @ share[0], -(pull * y) @ share[1]]
    return float(weights @ (near * (size - 0.5 * near))), np.array(gradient)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    value = work()
    return time.perf_counter() - began, value


def reference(table: Table, share: float) -> dict[str, float]:
    """Run the reference procedure, or a part of it, and return its times scaled to the whole."""
    random = np.random.default_rng(0)
    x, y, target, ones = np.log(table.N), np.log(table.D), np.log(table.loss), np.ones(len(table))
    starts = np.array(list(itertools.product(*GRID.values())))
    starts = starts[random.permutation(len(starts))[: max(1, int(share * len(starts)))]]

    def value(theta: Any) -> float:
        return objective(theta, x, y, target, ones)[0]

    seconds_fit, fits = timed(lambda: [minimize(value, s, method="L-BFGS-B") for s in starts])
    costs = np.array([f.fun for f in fits])
    weights = row_weights(len(table), BOOTSTRAPS, SEED)[: max(1, int(share * BOOTSTRAPS))]
    begin = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])  # Hoffmann et al.'s parameters
    seconds_bootstrap, draws = timed(
        lambda: [minimize(objective, begin, (x, y, target, w), jac=True, method="BFGS") for w in weights]
    )
    return {
        "fit_seconds": seconds_fit * 4500 / len(starts),
        "bootstrap_seconds": seconds_bootstrap * BOOTSTRAPS / len(weights),
        "objective": float(costs.min()),
        "costs": costs,  # type: ignore[dict-item]
        "bootstrap_objectives": np.array([d.fun for d in draws]),  # type: ignore[dict-item]
        "intervals": percentiles(np.array([d.x for d in draws])),  # type: ignore[dict-item]
    }


def percentiles(draws: Any) -> dict[str, list[float]]:
    """Return the 95 % intervals of replicates (R, 5) of log A, log B, log E, alpha, beta."""
    ends = np.quantile(np.concatenate([np.exp(draws[:, :3]), draws[:, 3:]], axis=1), [0.025, 0.975], axis=0).T
    return dict(zip(("A", "B", "E", "alpha", "beta"), ends.tolist(), strict=True))


def synthetic(rows: int, seed: int = 0) -> Table:
    """Return runs on IsoFLOP grids with 0.5 % noise."""
    random = np.random.default_rng(seed)
    num_sizes = 12
    C = np.repeat(np.geomspace(1e18, 1e22, rows // num_sizes), num_sizes)
    N = np.sqrt(C / 6 / 20) * np.tile(np.geomspace(0.15, 6, num_sizes), rows // num_sizes)
    D = C / 6 / N
    p = SURFACE
    loss = p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]
    loss = loss * np.exp(0.005 * random.standard_normal(len(N)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.jsonl"
        lines = [json.dumps({"N": n, "D": d, "loss": v}) for n, d, v in zip(N, D, loss, strict=True)]
        path.write_text("\n".join(lines) + "\n")
        return load(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--drop-highest-loss", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="part of the reference procedure that is run")
    args = parser.parse_args()
    table = synthetic(240) if args.table is None else drop_highest(load(args.table), args.drop_highest_loss)
    study(table, CHINCHILLA)  # imports and caches
    fit_seconds, ours = min((timed(lambda: study(table, CHINCHILLA)) for _ in range(5)), key=lambda pair: pair[0])
    fitted = fit_law(CHINCHILLA, table.columns, table.loss)
    weights = row_weights(len(table), BOOTSTRAPS, SEED)
    bootstrap_seconds, drawn = timed(lambda: weighted_bootstrap(fitted, weights))
    thousand = synthetic(1000)
    with tempfile.TemporaryDirectory() as folder:
        report_seconds, _ = timed(lambda: render(build(thousand, "1000 runs"), Path(folder)))
    peer = reference(table, args.share)
    best = min(fitted.objective, peer["objective"])
    found = {
        "rows": len(table),
        "ours": {
            "fit_with_certificate_seconds": fit_seconds,
            "bootstrap_4000_seconds": bootstrap_seconds,
            "report_of_996_runs_seconds": report_seconds,
            "objective": fitted.objective,
            "share_of_starts_at_the_optimum": ours.certificate.share_of_starts,
            "intervals": drawn.intervals(),
        },
        "reference": {
            "share_run": args.share,
            "fit_seconds": peer["fit_seconds"],
            "bootstrap_seconds": peer["bootstrap_seconds"],
            "objective": peer["objective"],
            "intervals": peer["intervals"],
            "share_of_starts_at_the_optimum": float(np.mean(peer["costs"] < best * (1 + SAME))),
        },
        "ratios": {
            "fit": peer["fit_seconds"] / fit_seconds,
            "bootstrap": peer["bootstrap_seconds"] / bootstrap_seconds,
        },
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
