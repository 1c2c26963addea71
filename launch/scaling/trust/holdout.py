"""Hold-out: every law is fitted to the smaller budgets and judged on the larger ones, which decides between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import fit_law
from launch.scaling.fit.objective import HUBER, Objective
from launch.scaling.laws.base import Law
from launch.scaling.laws.identify import NARROW, allocation_obstacles, one_variable_obstacles
from launch.scaling.laws.registry import FIXED
from launch.scaling.table.table import Table
from launch.scaling.trust.certify import certify, obstacles
from trainer.contract.errors import UserError

SHARES = (0.5, 0.65, 0.8, 0.9)  # of the rows, by compute, that the fits may see
# Farseer's is not among them: its nine parameters extrapolate wildly from a few dozen runs (see docs/scaling.md).
SURFACES = ("chinchilla", "over-training", "kaplan-ND", "outer")
LADDERS = {v: (f"power-{v}", f"power-{v}-floor") for v in ("N", "D", "C")}
ROWS_PER_PARAMETER = 2
EVERY_START = 6  # fewer starts are enough to compare laws
PASSABLE = 1.5  # times the smallest error: a law that misses more is not taken in place of a refused one
WILD = 8.0  # times the median error of a cut, at which errors are cut off: those of far and near runs stay whole
EXACT = 1e-6  # mean errors below this are the solver's, not the law's

MOST_LISTED = 10_000  # errors in the JSON of a law


@dataclass(frozen=True)
class HoldOut:
    """Errors of one law on rows that it did not see, over all cuts."""

    law: str
    distance: Array  # C of the row over the largest C of the fit
    error: Array  # relative, predicted / measured - 1
    cut: Array  # which cut each entry belongs to, largest training share last
    shared: tuple[int, ...] = ()  # the cuts that every law of the comparison took part in; empty: its own

    @property
    def mean(self) -> float:
        """Mean absolute error over the shared cuts, every cut weighing the same, and no run more than `WILD` medians.

        A law with many parameters misses the early cuts, whose runs lie farthest beyond: its own mean would flatter it.
        """
        cuts = self.shared or np.unique(self.cut)
        return float(np.mean([robust_mean(np.abs(self.error[self.cut == c])) for c in cuts]))

    def within(self, low: float, high: float) -> float | None:
        """Mean absolute error of rows at a distance between two factors."""
        inside = (self.distance > low) & (self.distance <= high)
        return float(np.mean(np.abs(self.error[inside]))) if inside.any() else None

    def to_json(self) -> dict[str, object]:
        """Return the mean error, and for each held-out run of each cut its distance and error: of many every k-th."""
        every = -(-len(self.cut) // MOST_LISTED)
        runs = zip(self.cut[::every], self.distance[::every], self.error[::every], strict=True)
        cuts = [{"seen": SHARES[int(c)], "distance": float(d), "error": float(e)} for c, d, e in runs]
        return {"law": self.law, "mean_error": self.mean, "runs": cuts}


def robust_mean(errors: Array) -> float:
    """Return the mean of absolute errors (n,), each cut off at `WILD` medians: one odd run must not rank the laws."""
    return float(np.mean(np.minimum(errors, WILD * np.median(errors))))


def candidates(table: Table) -> tuple[str, ...]:
    """Return the laws that the table's runs could identify."""
    if table.has("N", "D"):
        surfaces = tuple(name for name in SURFACES if not obstacles(FIXED[name], table.columns))
        if surfaces:
            return surfaces
    for variable, names in LADDERS.items():
        if table.has(variable) and not obstacles(FIXED[names[0]], table.columns):
            return names
    return ()


def hold_out(table: Table, laws: Sequence[str] | None = None, cost: Objective = HUBER) -> tuple[HoldOut, ...]:
    """Judge laws by their errors on larger budgets, best first.

    A law takes part in a cut when the rows below it are at least twice its parameters and identify it. Laws that no
    cut can test are left out. Of laws whose errors differ by rounding alone, as on a noise-free surface that one
    contains the other's, that with fewer parameters comes first.
    """
    found = []
    for name in candidates(table) if laws is None else laws:
        judged = _judge(table, FIXED[name], cost)
        if judged is not None:
            found.append(judged)
    shared = tuple(n for n in range(len(SHARES)) if all(n in h.cut for h in found))
    found = [replace(h, shared=shared) for h in found]
    return tuple(sorted(found, key=lambda h: (max(h.mean, EXACT), len(FIXED[h.law].params))))


def held_out(table: Table, cost: Objective = HUBER) -> tuple[HoldOut, ...]:
    """Return `hold_out`, or raise `UserError` where nothing can be held out."""
    found = hold_out(table, cost=cost)
    if not found:
        raise UserError(f"--hold-out: {len(table)} runs are too few, or lie so that no law can be told from a part")
    return found


@dataclass(frozen=True)
class Chosen:
    """The law for a table, why it was chosen (empty: the user named it), and what candidates missed, best first."""

    law: str
    why: str = ""
    held_out: tuple[HoldOut, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the parts that are there, by name."""
        found: dict[str, Any] = {"chosen": self.why} if self.why else {}
        return found | ({"hold_out": [h.to_json() for h in self.held_out]} if self.held_out else {})


def choose_law(table: Table, cost: Objective = HUBER) -> Chosen:
    """Choose a law by its error on larger budgets, not by how well it fits.

    A law is passed over where all runs together refuse it and one that misses little more is not refused. Runs of
    several N and D that lie so that no law of both can be told get Chinchilla's: its refusal says what is missing. Runs
    too few to hold any out get the usual law.
    """
    if table.has("N", "D") and allocation_obstacles(table.columns):
        ladder = next(
            (v for v in LADDERS if _spans(table, v) and not one_variable_obstacles(v, table.columns, 2)), None
        )
        one_budget = bool(one_variable_obstacles("C", table.columns, 2))  # N and D then trade off: no ladder of either
        instead = f"; --law power-{ladder} fits them as one ladder" if ladder and not one_budget else ""
        return Chosen(
            "chinchilla", f"a budget's best N and D need a law of both, which these runs cannot tell{instead}"
        )
    results = hold_out(table, cost=cost)
    if not results:
        return Chosen(_usual(table), f"{len(table)} runs are too few to hold any out; this is the usual law")
    best = believed(table, results, cost)
    if best is None:
        return Chosen(
            results[0].law,
            "it missed held-out budgets least; all runs together refuse it and every law that comes near",
            results,
        )
    passed = [h.law for h in results[: [h.law for h in results].index(best)]]
    but = f" but for {', '.join(passed)}, which all runs together refuse" if passed else ""
    return Chosen(best, f"it missed held-out budgets least{but}", results)


def _spans(table: Table, variable: str) -> bool:
    values = table.columns[variable]
    return bool(values.max() >= NARROW * values.min())


def believed(table: Table, results: Sequence[HoldOut], cost: Objective = HUBER) -> str | None:
    """Return the first law, best first, whose fit to all runs is not refused; None where all are.

    A law that misses larger budgets by much more than the best one is no way out of that one's refusal.
    """
    for h in results:
        if h.mean > PASSABLE * max(results[0].mean, EXACT):
            break
        if certify(fit_law(FIXED[h.law], table.columns, table.loss, cost)).status != "refused":
            return h.law
    return None


def _usual(table: Table) -> str:
    if table.has("N", "D"):
        return "chinchilla"
    return next((f"power-{v}" for v in ("N", "D", "C") if table.has(v)), "power-N")


def _judge(table: Table, law: Law, cost: Objective) -> HoldOut | None:
    if any(v not in table.columns for v in law.variables):
        return None
    scale = table.C if table.has("C") else table.columns[law.variables[0]]
    distance, error, cut = [], [], []
    for number, share in enumerate(SHARES):
        largest = np.quantile(scale, share, method="lower")
        seen = scale <= largest * 1.0001
        enough = seen.sum() >= ROWS_PER_PARAMETER * len(law.params) and (~seen).any()
        if not enough or obstacles(law, table.select(seen).columns):
            continue
        known, beyond = table.select(seen), table.select(~seen)
        fitted = fit_law(law, known.columns, known.loss, cost, every_start=EVERY_START)
        distance.append(scale[~seen] / largest)
        error.append(fitted.predict(beyond.columns) / beyond.loss - 1)
        cut.append(np.full(len(beyond), number))
    if not error:
        return None
    return HoldOut(law.name, np.concatenate(distance), np.concatenate(error), np.concatenate(cut))
