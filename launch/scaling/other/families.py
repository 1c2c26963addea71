"""Families of models compared: whether they may share exponents, and what each family's own law says.

Shared exponents are tested against separate fits by Huber's analogue of the F test (Schrader & Hettmansperger 1980):
both models minimise one robust objective, whose fall per parameter is set against what separate fits leave per run.
Where the test fails, the separate fits are the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from launch.scaling.arrays import Array, robust_sd
from launch.scaling.fit.fit import Fitted, fit_law
from launch.scaling.fit.objective import SQUARES, Objective
from launch.scaling.laws.base import Centre
from launch.scaling.laws.groups import Behind, SharedExponents
from launch.scaling.laws.optimum import budget_exponents
from launch.scaling.questions.next_run import Decision, decide
from launch.scaling.questions.saved_fit import SavedFit, saved_fit
from launch.scaling.table.table import Table
from launch.scaling.trust.study import Study, study
from trainer.contract.errors import UserError

SIGNIFICANT = 0.01
SPARE = 2  # runs beyond its parameters that a family needs for a fit of its own in the test
TURN = 1.5  # robust standard deviations at which Huber's function turns
EXACT = 0.02  # of the logarithm: a C this near 6 N D is 6 N D
BEYOND = 10.0  # times the largest budget: where families are compared unless a target is named


@dataclass(frozen=True)
class SharedTest:
    """Are exponents shared? `freedom`: parameters that separate fits have more, and degrees of freedom they leave."""

    f_ratio: float
    p_value: float
    freedom: tuple[int, int]

    @property
    def rejects(self) -> bool:
        """Return whether the families differ by more than noise."""
        return self.p_value < SIGNIFICANT

    @property
    def sentence(self) -> str:
        """Say what the test found, with its F and p."""
        how = f"F({self.freedom[0]}, {self.freedom[1]}) = {self.f_ratio:.3g}, p = {self.p_value:.2g}"
        if self.rejects:
            return (
                f"families do not share exponents ({how}): each has a fit of its own, and no multiplier compares them"
            )
        return f"separate fits are no better than shared exponents ({how})"


@dataclass(frozen=True)
class Family:
    """The law of one family: `saved` answers questions. Interval ends of a are None without replicates."""

    name: str
    runs: int
    saved: SavedFit
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    exponent: tuple[float, float | None, float | None] | None
    decision: Decision | None
    exact_flops: float | None  # of the decision's run, where the table counts them

    def to_json(self) -> dict[str, Any]:
        """Return the family as `escala optimal` and `escala forecast` read it."""
        saved = self.saved
        return {
            "law": saved.law.name,
            "formula": saved.law.formula,
            "params": self.values,
            "intervals": {n: list(pair) for n, pair in self.intervals.items()},
            "a": None if self.exponent is None else list(self.exponent),
            "decision": None if self.decision is None else asdict(self.decision),
            "exact_flops": self.exact_flops,
            "certificate": {"status": saved.status, "reasons": list(saved.reasons)},
            "rows_used": self.runs,
            "range": saved.range,
            "internal": {
                "centre": dict(saved.centre.means),
                "theta": saved.theta.tolist(),
                "draws": saved.draws.tolist(),
                "residual_sd": saved.residual_sd,
            },
        }


@dataclass(frozen=True)
class Families:
    """What `--law shared-exponents` says of each family. `untested` says why there is no test."""

    reference: str
    test: SharedTest | None
    untested: str
    each: tuple[Family, ...]
    flops: float

    @property
    def separate(self) -> bool:
        """Return whether each family needs exponents of its own."""
        return self.test is not None and self.test.rejects

    @property
    def sentence(self) -> str:
        """Say what the test found, or why there is none."""
        return self.untested if self.test is None else self.test.sentence

    def to_json(self) -> dict[str, Any]:
        """Return all of it for `--json`."""
        test = None if self.test is None else asdict(self.test) | {"sentence": self.test.sentence}
        fits = {family.name: family.to_json() for family in self.each}
        return {
            "families": {
                "reference": self.reference, "separate": self.separate, "test": test, "untested": self.untested or None,
                "flops": self.flops, "fits": fits,
            }
        }  # fmt: skip


def compare_families(
    result: Study, *, cost: Objective, bootstrap: int, seed: int, cluster: Array | None, target: float | None
) -> Families | None:
    """Test the shared exponents of a fit, and give the law of each family: its share of it, or a fit of its own.

    None where the law is another one, or could not be fitted.
    """
    law, table = result.law, result.table
    if not isinstance(law, SharedExponents) or result.fitted is None:
        return None
    groups = table.labels["group"]
    (reference,) = set(groups.tolist()) - set(law.groups)
    names = (reference, *law.groups)
    test, untested = _test(law, table)
    flops = target if target is not None else BEYOND * float(table.C.max()) if table.has("C") else math.nan
    each = []
    for name in names:
        mine = groups == name
        if test is not None and test.rejects:
            own = study(
                table.select(mine), law.common, cost=cost, bootstrap=bootstrap, seed=seed,
                cluster=None if cluster is None else cluster[mine],
            )  # fmt: skip
        else:
            own = replace(
                result, table=table.select(mine), law=law.common, fitted=_share(result.fitted, law, name, mine)
            )
        each.append(_family(str(name), own, flops))
    return Families(str(reference), test, untested, tuple(each), flops)


def _share(fitted: Fitted, law: SharedExponents, name: str, mine: Array) -> Fitted:
    """Return the shared fit as the law of one family, over its runs."""
    return replace(
        fitted,
        law=law.common,
        centre=Centre({v: fitted.centre.means[v] for v in law.common.variables}),
        theta=law.of_family(fitted.theta[None], name)[0],
        draws=None if fitted.draws is None else law.of_family(fitted.draws, name),
        columns={v: fitted.columns[v][mine] for v in law.common.variables},
        loss=fitted.loss[mine],
    )


def _family(name: str, own: Study, flops: float) -> Family:
    if own.fitted is None:
        raise UserError(f"family {name!r}: {'; '.join(own.certificate.reasons)}; leave it out with --where")
    status, reasons = own.certificate.status, own.certificate.reasons
    saved = saved_fit(own.fitted, status, reasons, own.table)
    decision = None
    allocates = status != "refused" and set(own.law.variables) == {"N", "D"}
    if allocates:
        decision = decide(saved, flops)
    over = None if decision is None else exact_over_6nd(own.table, decision.N.value)
    return Family(
        name,
        len(own.table),
        saved,
        own.fitted.values,
        {} if own.fitted.draws is None else own.fitted.intervals(),
        _exponent(own.fitted, flops) if allocates else None,
        decision,
        None if over is None else over * flops,
    )


def _exponent(fitted: Fitted, flops: float) -> tuple[float, float | None, float | None]:
    a = float(budget_exponents(fitted.law, fitted.theta[None], fitted.centre, flops)[0])
    if fitted.draws is None:
        return a, None, None
    low, high = np.quantile(budget_exponents(fitted.law, fitted.draws, fitted.centre, flops), [0.025, 0.975])
    return a, float(low), float(high)


def _test(law: SharedExponents, table: Table) -> tuple[SharedTest | None, str]:
    """Test over the families that have runs enough; where fewer than two have, say so."""
    groups, size = table.labels["group"], len(law.common.params)
    counts = {name: int((groups == name).sum()) for name in dict.fromkeys(groups.tolist())}
    enough = [name for name, number in counts.items() if number >= size + SPARE]
    if len(enough) < 2:
        few = ", ".join(f"{name} {number}" for name, number in counts.items() if name not in enough)
        return None, (
            f"shared exponents are not tested: a fit of its own wants {size + SPARE} runs of a family, and there are "
            f"{few}"
        )
    tested = table.select(np.isin(groups, enough))
    parts = [tested.select(tested.labels["group"] == name) for name in enough]
    both = SharedExponents(law.common, tuple(g for g in law.groups if g in enough))
    if both.groups and len(both.groups) == len(enough):  # the reference is too small: another one takes its place
        both = SharedExponents(law.common, both.groups[1:])
    separate = [fit_law(law.common, part.columns, part.loss, SQUARES) for part in parts]
    spread = robust_sd(np.concatenate([f.residuals for f in separate]))
    if spread <= 0:
        return None, "shared exponents are not tested: separate fits leave no residuals"
    cost = Objective(TURN * spread)
    shared = fit_law(both, tested.columns, tested.loss, cost).objective
    apart = sum(fit_law(law.common, part.columns, part.loss, cost).objective for part in parts)
    freedom = size * len(parts) - len(both.params), len(tested) - size * len(parts)
    from scipy.special import fdtrc  # only tables of families pay for scipy

    ratio = max(shared - apart, 0.0) / freedom[0] / (apart / freedom[1])
    return SharedTest(float(ratio), float(fdtrc(*freedom, ratio)), freedom), ""


def exact_over_6nd(table: Table, N: float) -> float | None:
    """Return exactly counted FLOPs over 6 N D at a size, between the sizes of a table that has both; else None.

    Attention weighs less in larger models: beyond the sizes of the table the nearest one counts.
    """
    if not table.has("N", "D", "C"):
        return None
    ratio = np.log(table.flops.get("exact", table.C) / (6 * table.N * table.D))
    if np.abs(ratio).max() < EXACT:
        return None
    sizes, place = np.unique(np.round(np.log(table.N), 3), return_inverse=True)
    means = np.bincount(place.ravel(), ratio) / np.bincount(place.ravel())
    return float(np.exp(np.interp(np.log(N), sizes, means)))


def with_exact_flops(found: Sequence[Behind], table: Table, reference: str) -> tuple[Behind, ...]:
    """Add exactly counted FLOPs at equal loss: at the middle size of the reference and that which each family needs."""
    groups = table.labels["group"]
    middle = float(np.exp(np.mean(np.log(table.N[groups == reference]))))
    base = exact_over_6nd(table.select(groups == reference), middle)
    added = []
    for b in found:
        size = None if b.parameters is None else middle * b.parameters[0]
        over = None if size is None else exact_over_6nd(table.select(groups == b.group), size)
        if b.flops is None or (base is None and over is None):
            added.append(b)
            continue
        value, low, high = b.flops
        by = (over or 1.0) / (base or 1.0)
        ends = [None if end is None else end * by for end in (low, high)]
        added.append(replace(b, exact_flops=(value * by, ends[0], ends[1])))
    return tuple(added)
