"""A fit as JSON, and back: what `escala optimal` and `escala forecast` start from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted
from launch.scaling.laws.base import Centre, Law
from launch.scaling.laws.optimum import log_optimal_n, loss_at
from launch.scaling.laws.powers import PowerSum
from launch.scaling.laws.registry import find_law
from launch.scaling.other.saved_families import of_family
from launch.scaling.questions.saved_draws import draws_from
from launch.scaling.table.table import Table
from launch.scaling.trust.decision import spread_of
from launch.scaling.trust.internal import trimmed_sd
from launch.scaling.trust.replicates import DecisionDraws, Replicates
from launch.scaling.trust.verdict import NO_EVIDENCE, Evidence
from trainer.contract.errors import UserError

# Laws that are made for their table, and what to ask instead.
BY_TABLE = {
    "shared-exponents": "Fit it again: its output now has a law for each family",
    "data-constrained": "Fit the runs that repeat no token: escala fit TABLE --law chinchilla",
}


@dataclass(frozen=True)
class SavedFit:
    """A law that can be asked for losses and allocations, with replicates for its intervals."""

    law: Law
    centre: Centre
    theta: Array  # (p,)
    draws: Array  # (R, p); R may be 0
    residual_sd: float
    status: str
    reasons: tuple[str, ...]
    table_sha256: str
    range: dict[str, list[float]]
    convention: str
    drawn: DecisionDraws | None = None  # what a decision is drawn from; None: only the law's own replicates
    evidence: Evidence = NO_EVIDENCE
    runs: Mapping[str, Any] = field(default_factory=dict)  # that it has seen: `launch/scaling/table/seen.py`

    @property
    def doubts(self) -> tuple[str, ...]:
        """What the residuals say against the fit."""
        return self.evidence.doubts

    @property
    def draws_of_decision(self) -> DecisionDraws:
        """What a decision is drawn from; for a fit without it the law's replicates by themselves."""
        if self.drawn is not None:
            return self.drawn
        alone = Replicates(self.law, 1.0, self.centre, self.theta, self.draws)
        return DecisionDraws((alone,), (), "row", 0.0, "")

    def loss(self, **columns: float) -> float:
        """Return the loss at one point."""
        x = self.centre.logs({v: np.array([columns[v]]) for v in self.law.variables})
        return float(np.exp(self.law.log_loss(self.theta[None], x)[0][0, 0]))

    def new_run(self, **columns: float) -> tuple[float, tuple[float, float] | None]:
        """Return the loss of one new run and its 95 % interval: that of a decision, plus the scatter of runs."""
        value, drawn = self.loss(**columns), self.draws_of_decision
        if not len(drawn.point.draws):
            return value, None
        scatter = float(np.hypot(self.residual_sd, drawn.shared_sd))

        def asked(law: Law, theta: Array, centre: Centre) -> Array:
            x = centre.logs({v: np.array([columns[v]]) for v in law.variables})
            return np.asarray(law.log_loss(theta, x)[0][:, 0])

        spread = spread_of(drawn, asked, scatter=scatter)
        return value, (float(np.exp(spread.interval[0])), float(np.exp(spread.interval[1])))

    def allocation(self, flops: float) -> tuple[Array, Array]:
        """Return ln N* and the loss there, first of the fit itself and then of every replicate (1 + R,)."""
        theta = np.concatenate([self.theta[None], self.draws])
        log_n = log_optimal_n(self.law, theta, self.centre, flops)
        return log_n, np.exp(loss_at(self.law, theta, self.centre, log_n, flops))


def saved_fit(
    fitted: Fitted,
    status: str,
    reasons: tuple[str, ...],
    table: Table,
    *,
    drawn: DecisionDraws | None = None,
    evidence: Evidence | None = None,
) -> SavedFit:
    """Return a fit that can be asked, without the way over a file."""
    draws = np.empty((0, fitted.num_params)) if fitted.draws is None else fitted.draws
    sizes = {"C": [float(table.C.min()), float(table.C.max())]} if table.has("C") else {}
    spread = trimmed_sd(fitted.residuals, fitted.num_params)
    return SavedFit(
        fitted.law, fitted.centre, fitted.theta, draws, spread, status, reasons, table.sha256, sizes,
        table.n_convention, drawn, evidence or NO_EVIDENCE,
    )  # fmt: skip


def load_fit(path: Path, *, refuse: bool = True, family: str | None = None) -> SavedFit:
    """Read what `escala fit --json` printed. With `refuse`, a refused fit is an error that repeats its reasons.

    A fit whose decision was refused at its own target can be asked: a nearer budget may be clear. Of a fit of families
    the law of one is returned: by default that of the reference.
    """
    try:
        values = of_family(json.loads(path.read_text(encoding="utf-8")), family, str(path))
        certificate = values.get("certificate", {"status": "unknown", "reasons": ["the file has no certificate"]})
        decision = values.get("internal_decision")
        if refuse and certificate["status"] == "refused" and decision is None:
            raise UserError(f"{path} was refused: " + "; ".join(certificate["reasons"]))
        if values["law"] in BY_TABLE:
            raise UserError(
                f"{path} is a fit of {values['law']}, which depends on more of its table than the file keeps: a budget "
                f"or a new run cannot be asked of it. {BY_TABLE[values['law']]}"
            )
        law = find_law(values["law"])
        internal = values.get("internal") or _from_params(law, values["params"])
        size = len(internal["theta"])
        return SavedFit(
            law=law,
            centre=Centre(internal["centre"]),
            theta=np.array(internal["theta"]),
            draws=np.array(internal["draws"], float).reshape(-1, size),
            residual_sd=math.nan if internal["residual_sd"] is None else float(internal["residual_sd"]),
            status=certificate["status"],
            reasons=tuple(certificate["reasons"]),
            table_sha256=values.get("table", {}).get("sha256", ""),
            range=values.get("range", {}),
            convention=values.get("conventions", {}).get("N", "as given"),
            drawn=None if decision is None else draws_from(decision),
            evidence=_evidence(values, decision),
            runs=values.get("runs", {}),
        )
    except FileNotFoundError:
        raise UserError(f"no such fit: {path} (make one with `escala fit TABLE --json > {path}`)") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory, not the output of `escala fit --json`") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the output of `escala fit --json`: {error!r}") from None


def _evidence(values: Mapping[str, Any], decision: dict[str, Any] | None) -> Evidence:
    held = [h["mean_error"] for h in values.get("hold_out", ()) if h["law"] == values["law"]]
    reasons = values.get("certificate", {}).get("reasons", ()) if decision is None else decision["reasons"]
    return Evidence(
        reasons=tuple(reasons),
        doubts=tuple(d["sentence"] for d in values.get("doubts", ())),
        held_out=held[0] if held else None,
        largest={name: ends[1] for name, ends in values.get("range", {}).items() if name in ("N", "D", "C")},
    )


def _from_params(law: Law, params: dict[str, float]) -> dict[str, Any]:
    """Start from published parameters alone, as somebody else's file may give them: no replicates."""
    if not isinstance(law, PowerSum):
        raise KeyError("internal")
    centre = {v: float(np.log({"N": 1e9, "D": 2e10, "C": 1.2e20}[v])) for v in law.variables}
    public = np.array([[float(params[name]) for name in law.params]])
    if not (np.isfinite(public) & (public > 0)).all():
        raise ValueError("parameters are positive numbers: " + ", ".join(f"{n} = {params[n]}" for n in law.params))
    theta = law.internal(public, Centre(centre))[0]
    return {"centre": centre, "theta": theta, "draws": [], "residual_sd": 0.0}
