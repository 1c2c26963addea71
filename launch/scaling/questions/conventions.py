"""How far a fit moves with the way that parameters and FLOPs are counted (Porian et al. 2024, arXiv 2406.19146).

N has up to three conventions and C two: 6 N D of the same N, and what the table says (for a ledger the exact count
with attention and head). The law is fitted in N and D; C enters through the budget: where training a token costs
c N^s FLOPs, the best N grows as another power of C than where it costs 6 N.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted
from launch.scaling.fit.objective import HUBER, Objective
from launch.scaling.laws.base import Law
from launch.scaling.laws.optimum import REACH, golden_section
from launch.scaling.table.table import Table
from launch.scaling.trust.study import study

ABOUT = 2.0  # the exponent at the largest budget is taken between half and twice of it


@dataclass(frozen=True)
class Counted:
    """One law under one way to count. `exponent` is a of N* ~ C^a at the largest budget; None for laws of one size."""

    N: str
    C: str
    values: dict[str, float]
    exponent: float | None
    status: str

    def to_json(self) -> dict[str, object]:
        """Return all of it for `--json`."""
        return {"N": self.N, "C": self.C, "params": self.values, "a": self.exponent, "status": self.status}


def count_every_way(table: Table, law: Law, cost: Objective = HUBER) -> list[Counted]:
    """Fit `law` under every convention that the table knows. Fits that need more runs are left out."""
    found: list[Counted] = []
    variables = set(law.variables)
    for sizes in _recounted_sizes(table) if variables & {"N", "C"} else [table]:
        result = None
        for runs in _recounted_flops(sizes) if variables & {"D", "C"} else [sizes]:
            if "N" not in variables and any(c.C == runs.c_convention != "6nd" for c in found):
                continue  # the exact count does not depend on how N is counted
            if result is None or "C" in variables:
                result = study(runs, law, cost=cost)
            if result.fitted is not None:
                a = budget_exponent(result.fitted, runs.C) if variables == {"N", "D"} else None
                found.append(
                    Counted(runs.n_convention, runs.c_convention, result.fitted.values, a, result.certificate.status)
                )
    return found


def _recounted_sizes(table: Table) -> Iterator[Table]:
    if not table.conventions:
        yield table
    for convention in table.conventions:
        yield table.counted(convention)


def _recounted_flops(table: Table) -> Iterator[Table]:
    """Yield the table with C = 6 N D, then with its own C where that is something else."""
    if not table.has("N", "D"):
        yield table
        return
    product = 6 * table.N * table.D
    yield replace(table, columns={**table.columns, "C": product}, c_convention="6nd")
    own = table.flops.get("exact", table.columns.get("C"))
    if own is not None and np.abs(np.log(own / product)).max() > 1e-6:
        name = "exact" if "exact" in table.flops else "as given"
        yield replace(table, columns={**table.columns, "C": own}, c_convention=name)


def budget_exponent(fitted: Fitted, flops: Array | None = None) -> float:
    """Return the local exponent a of N* ~ C^a at the largest budget, where a token costs c N^s.

    c and s are those of `flops` (n,) of the fitted runs; without them a token costs 6 N.
    """
    N, D = fitted.columns["N"], fitted.columns["D"]
    C = 6 * N * D if flops is None else flops
    s, log_c = np.polyfit(np.log(N), np.log(C / D), 1)
    largest = float(np.log(C.max()))
    ends = [
        _log_optimal_n(fitted, largest + shift, float(s), float(log_c)) for shift in (-np.log(ABOUT), np.log(ABOUT))
    ]
    return float((ends[1] - ends[0]) / (2 * np.log(ABOUT)))


def _log_optimal_n(fitted: Fitted, log_flops: float, s: float, log_c: float) -> float:
    """Return ln N that minimises the loss at D = C / (c N^s)."""
    middle = fitted.centre.means["N"]

    def loss(log_n: Array) -> Array:
        log_d = log_flops - log_c - s * log_n
        x = {"N": (log_n - middle)[:, None], "D": (log_d - fitted.centre.means["D"])[:, None]}
        return np.asarray(fitted.law.log_loss(fitted.theta[None], x)[0][:, 0])

    return float(golden_section(loss, np.array([middle - REACH]), np.array([middle + REACH]))[0])
