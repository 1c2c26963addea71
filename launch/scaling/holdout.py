"""Hold-out: every law is fitted to the smaller budgets and judged on the larger ones, which decides between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.scaling.certify import certify, obstacles
from launch.scaling.fit import fit_law
from launch.scaling.laws.base import Law
from launch.scaling.laws.registry import FIXED
from launch.scaling.objective import HUBER, Array, Objective
from launch.scaling.table import Table
from trainer.errors import UserError

SHARES = (0.5, 0.65, 0.8, 0.9)  # of the rows, by compute, that the fits may see
# Farseer's is not among them: its nine parameters extrapolate wildly from a few dozen runs (see docs/scaling.md).
SURFACES = ("chinchilla", "over-training", "kaplan-ND", "outer")
LADDERS = {v: (f"power-{v}", f"power-{v}-floor") for v in ("N", "D", "C")}
ROWS_PER_PARAMETER = 2
EVERY_START = 6  # fewer starts are enough to compare laws


@dataclass(frozen=True)
class HoldOut:
    """Errors of one law on rows that it did not see, over all cuts."""

    law: str
    distance: Array  # C of the row over the largest C of the fit
    error: Array  # relative, predicted / measured - 1
    cut: Array  # which cut each entry belongs to, largest training share last

    @property
    def mean(self) -> float:
        """Mean absolute error, every cut weighing the same."""
        return float(np.mean([np.mean(np.abs(self.error[self.cut == c])) for c in np.unique(self.cut)]))

    def within(self, low: float, high: float) -> float | None:
        """Mean absolute error of rows at a distance between two factors."""
        inside = (self.distance > low) & (self.distance <= high)
        return float(np.mean(np.abs(self.error[inside]))) if inside.any() else None

    def to_json(self) -> dict[str, Any]:
        """Return the mean error, and for each held-out run of each cut its distance and error."""
        runs = zip(self.cut, self.distance, self.error, strict=True)
        cuts = [{"seen": SHARES[int(c)], "distance": float(d), "error": float(e)} for c, d, e in runs]
        return {"law": self.law, "mean_error": self.mean, "runs": cuts}


def candidates(table: Table) -> tuple[str, ...]:
    """Return the laws that the table's runs could identify."""
    if table.has("N", "D"):
        surfaces = tuple(name for name in SURFACES if not obstacles(FIXED[name], table.columns, _size(FIXED[name])))
        if surfaces:
            return surfaces
    for variable, names in LADDERS.items():
        if table.has(variable) and not obstacles(FIXED[names[0]], table.columns, 2):
            return names
    return ()


def hold_out(table: Table, laws: Sequence[str] | None = None, cost: Objective = HUBER) -> list[HoldOut]:
    """Judge laws by their errors on larger budgets, best first.

    A law takes part in a cut when the rows below it are at least twice its parameters and identify it. Laws that no
    cut can test are left out.
    """
    found = []
    for name in candidates(table) if laws is None else laws:
        judged = _judge(table, FIXED[name], cost)
        if judged is not None:
            found.append(judged)
    return sorted(found, key=lambda h: h.mean)


def choose_law(table: Table) -> tuple[str, list[HoldOut]]:
    """Return the law with the smallest hold-out error that all runs together do not refute, and all results.

    A law is passed over where its certificate refuses it, unless every law is refused. Raises `UserError` when none
    can be tested.
    """
    results = hold_out(table)
    if not results:
        raise UserError(
            f"{table.source}: too few runs to hold any out ({len(table)}); name a law with --law (for a ladder of "
            "sizes power-N or power-N-floor)"
        )
    return believed(table, results) or results[0].law, results


def believed(table: Table, results: Sequence[HoldOut]) -> str | None:
    """Return the first law, best first, whose fit to all runs is not refused."""
    for h in results:
        if certify(fit_law(FIXED[h.law], table.columns, table.loss)).status != "refused":
            return h.law
    return None


def _judge(table: Table, law: Law, cost: Objective) -> HoldOut | None:
    if any(v not in table.columns for v in law.variables):
        return None
    scale = table.C if table.has("C") else table.columns[law.variables[0]]
    distance, error, cut = [], [], []
    for number, share in enumerate(SHARES):
        largest = np.quantile(scale, share, method="lower")
        seen = scale <= largest * 1.0001
        enough = seen.sum() >= ROWS_PER_PARAMETER * _size(law) and (~seen).any()
        if not enough or obstacles(law, table.select(seen).columns, _size(law)):
            continue
        known, beyond = table.select(seen), table.select(~seen)
        fitted = fit_law(law, known.columns, known.loss, cost, every_start=EVERY_START)
        distance.append(beyond.C / largest if table.has("C") else scale[~seen] / largest)
        error.append(fitted.predict(beyond.columns) / beyond.loss - 1)
        cut.append(np.full(len(beyond), number))
    if not error:
        return None
    return HoldOut(law.name, np.concatenate(distance), np.concatenate(error), np.concatenate(cut))


def _size(law: Law) -> int:
    """Return the number of parameters that are fitted."""
    return len(law.params)
