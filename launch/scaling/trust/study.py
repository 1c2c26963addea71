"""One law, one table, everything that belongs to the answer: fit, certificate, intervals, time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted, fit_law
from launch.scaling.fit.objective import HUBER, Objective
from launch.scaling.laws.base import Demanding, Law
from launch.scaling.laws.groups import SharedExponents
from launch.scaling.laws.optimum import budget_exponents
from launch.scaling.table.checks import names_text, rows_text
from launch.scaling.table.oddities import MANY_EPOCHS
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import check_replicates, cluster_weights, row_weights, weighted_bootstrap
from launch.scaling.trust.certify import EXPONENTS, Certificate, certify, refuse
from launch.scaling.trust.internal import internal_json
from launch.scaling.trust.lack_of_fit import SIGNIFICANT, LackOfFit, lack_of_fit
from launch.scaling.trust.obstacles import obstacles
from launch.scaling.tune.standing import loss_if_tuned, standing
from trainer.contract.errors import UserError

FEWEST_GROUPS = 3
EXPONENT_MOVES = 0.01
FEW_GROUPS = 6  # below it their intervals are too narrow: see docs/benchmarks/scaling.md


@dataclass(frozen=True)
class Study:
    """The result of `escala fit`. `fitted` is None when the runs are too few or lie too badly to try."""

    table: Table
    law: Law
    fitted: Fitted | None
    certificate: Certificate
    seconds: float
    replicates: LackOfFit | None = None  # the F test, where cells are repeated
    if_tuned: Mapping[str, float] = field(default_factory=dict)  # parameters and a, at the best settings

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return 95 % intervals: bootstrap percentiles, or without replicates those of the profiles.

        They are widened to where each parameter would move at the best learning rate, batch and weight decay, as far as
        the tuning tells.
        """
        if self.fitted is None or not (self.certificate.profiles or self.fitted.draws is not None):
            return {}
        by_draws = self.fitted.draws is not None
        found = self.fitted.intervals() if by_draws else self.certificate.intervals(self.law)
        return {name: self._reaching(name, ends) for name, ends in found.items()}

    def _reaching(self, name: str, ends: tuple[float, float]) -> tuple[float, float]:
        moved = self.if_tuned.get(name)
        return ends if moved is None else (min(ends[0], moved), max(ends[1], moved))

    def exponent(self) -> tuple[float, tuple[float, float] | None] | None:
        """Return a of N* ~ C^a at the largest budget and its 95 % interval over replicates.

        None where the fit is refused or the law is not of N and D.
        """
        fitted = self.fitted
        if fitted is None or self.certificate.status == "refused" or set(self.law.variables) != {"N", "D"}:
            return None
        budget = float(np.max(6 * fitted.columns["N"] * fitted.columns["D"]))
        a = float(budget_exponents(self.law, fitted.theta[None], fitted.centre, budget)[0])
        if fitted.draws is None:
            return a, None
        low, high = np.quantile(budget_exponents(self.law, fitted.draws, fitted.centre, budget), [0.025, 0.975])
        return a, self._reaching("a", (float(low), float(high)))

    def to_json(self) -> dict[str, object]:
        """Return what scripts rely on (`escala fit --json`)."""
        fitted, certificate = self.fitted, self.certificate
        names = self.law.params
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "params": dict.fromkeys(names) if fitted is None else fitted.values,
            "objective": None if fitted is None else fitted.objective,
            "intervals": {n: [_finite(v) for v in pair] for n, pair in self.intervals().items()},
            "allocation": _allocation_json(self.exponent()),
            "certificate": {
                "status": certificate.status,
                "reasons": list(certificate.reasons),
                "share_of_starts": certificate.share_of_starts,
                "gradient_norm": _finite(certificate.gradient_norm),
                "condition": _finite(certificate.condition),
                "profiles": _profiles_json(certificate, self.law),
                "unidentified": dict(certificate.unidentified),
            },
            **({"if_tuned": dict(self.if_tuned)} if self.if_tuned else {}),
            "replicates": None if self.replicates is None else asdict(self.replicates),
            "rows_used": len(self.table),
            "seconds": round(self.seconds, 4),
            "warnings": list(self.table.warnings),
            "notes": list(self.table.notes),
            "left_out": list(self.table.without),
            "table": {"path": self.table.source, "sha256": self.table.sha256},
            "conventions": {"N": self.table.n_convention, "C": self.table.c_convention},
            "range": _range_json(self.table),
            "internal": internal_json(fitted),
        }


def study(
    table: Table,
    law: Law,
    *,
    cost: Objective = HUBER,
    bootstrap: int = 0,
    seed: int = 0,
    cluster: Array | None = None,
    fits: Mapping[str, Fitted] | None = None,
) -> Study:
    """Fit, certify and bootstrap. `cluster` (n,) names groups of rows that are drawn together.

    `fits` are fits to the same rows with the same `cost` that are made already, by the names of their laws.

    Raises `UserError` for a table without the law's variables, and for a bootstrap that has no 95 % interval.
    """
    began = time.perf_counter()
    check_replicates(bootstrap, seed)
    _check_groups(bootstrap, cluster)
    table.require(law.variables, law.name)
    few = _few_groups(cluster) if bootstrap else []
    table = replace(table, warnings=(*table.warnings, *_overlooked(table, law), *few))
    reasons = obstacles(law, table.columns)
    if reasons and (len(table) < len(law.params) or isinstance(law, Demanding)):
        return Study(table, law, None, refuse(reasons), time.perf_counter() - began)
    fitted = (fits or {}).get(law.name) or fit_law(law, table.columns, table.loss, cost)
    test = lack_of_fit(fitted)
    sentence = test.sentence if test is not None and test.p_value < SIGNIFICANT else None
    stands, if_tuned = standing(table), _if_tuned(fitted, table, cost)
    certificate = certify(fitted, lack_of_fit=sentence, tuning=(*stands.weak, *_moved(fitted, if_tuned)))
    table = replace(table, notes=(*table.notes, *stands.notes))
    if bootstrap and not reasons:  # replicates of what cannot be told apart would look like intervals
        weights = (
            row_weights(len(table), bootstrap, seed) if cluster is None else cluster_weights(cluster, bootstrap, seed)
        )
        fitted = weighted_bootstrap(fitted, weights)
    return Study(table, law, fitted, certificate, time.perf_counter() - began, test, if_tuned)


def _if_tuned(fitted: Fitted, table: Table, cost: Objective) -> dict[str, float]:
    """Return the parameters, and a where the law has it, of the law of the losses at the best settings."""
    losses = loss_if_tuned(table)
    if losses is None:
        return {}
    tuned = fit_law(fitted.law, table.columns, losses, cost)
    found = tuned.values
    if set(fitted.law.variables) == {"N", "D"}:
        budget = float(np.max(6 * fitted.columns["N"] * fitted.columns["D"]))
        found["a"] = float(budget_exponents(tuned.law, tuned.theta[None], tuned.centre, budget)[0])
    return found


def _moved(fitted: Fitted, if_tuned: Mapping[str, float]) -> list[str]:
    """Say how far exponents move where they do by more than a hundredth of themselves."""
    values = fitted.values
    moved = [n for n in EXPONENTS if n in if_tuned and abs(if_tuned[n] / values[n] - 1) > EXPONENT_MOVES]
    said = [f"{name} from {values[name]:.4g} to {if_tuned[name]:.4g}" for name in sorted(moved)]
    return [f"the best settings would move {', '.join(said)}; the intervals reach there"] if said else []


def _check_groups(num: int, cluster: Array | None) -> None:
    if num and cluster is not None and (groups := len(set(cluster))) < FEWEST_GROUPS:
        raise UserError(
            f"the rows are in {groups} groups (--cluster); drawing whole groups wants {FEWEST_GROUPS} or more: cluster "
            "by another column, or draw rows"
        )


def _few_groups(cluster: Array | None) -> list[str]:
    if cluster is None or (groups := len(set(cluster))) >= FEW_GROUPS:
        return []
    return [
        f"few groups: intervals from {groups} drawn groups are too narrow (from 4 they held the truth in about 75 of "
        f"100 simulated sweeps, from 5 in 90, from {FEW_GROUPS} on in 96)"
    ]


def _overlooked(table: Table, law: Law) -> list[str]:
    """Warn about what the table says and the law has no place for."""
    warnings = []
    groups = list(dict.fromkeys(table.labels.get("group", ())))
    if len(groups) > 1 and not isinstance(law, SharedExponents):
        warnings.append(
            f"families: one law is fitted to {len(groups)} of them ({names_text(groups)}); keep one with --where, or "
            "compare them with --law shared-exponents"
        )
    if table.has("D", "U") and "U" not in law.variables:
        epochs = table.columns["D"] / table.columns["U"]
        often = epochs > MANY_EPOCHS
        if often.any():
            warnings.append(
                f"repeated tokens: {rows_text(table.row[often])} saw their tokens up to {epochs.max():.3g} times, and "
                f"{law.name} counts them as new (--law data-constrained does not)"
            )
    return warnings


def _allocation_json(exponent: tuple[float, tuple[float, float] | None] | None) -> dict[str, Any] | None:
    if exponent is None:
        return None
    a, ends = exponent
    return {"a": a, "interval": None if ends is None else list(ends)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _profiles_json(certificate: Certificate, law: Law) -> dict[str, list[float | None]]:
    found = {n: [_finite(v) for v in pair] for n, pair in certificate.intervals(law).items()}
    if "ln N*" in certificate.profiles:
        found["ln N*"] = [_finite(v) for v in certificate.profiles["ln N*"].interval]
    return found


def _range_json(table: Table) -> dict[str, list[float]]:
    return {
        n: [float(table.columns[n].min()), float(table.columns[n].max())]
        for n in ("N", "D", "C", "loss")
        if table.has(n)
    }
