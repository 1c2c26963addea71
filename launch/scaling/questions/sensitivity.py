"""What a decision rests on: the same question asked of every law, and with each group of runs left out.

A bootstrap knows only the scatter of the runs about one law. The spread over laws and over fits that miss a whole group
(a size, a budget, a family) shows what it cannot: a wrong form, and a recipe that carries the fit alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from launch.scaling.fit.fit import Fitted, fit_law
from launch.scaling.fit.objective import HUBER, Objective
from launch.scaling.laws.base import Law
from launch.scaling.laws.optimum import log_optimal_n, loss_at
from launch.scaling.laws.registry import FIXED
from launch.scaling.table.clusters import clusters, in_order
from launch.scaling.table.table import Table
from launch.scaling.trust.certify import certify, obstacles
from launch.scaling.trust.holdout import EVERY_START, candidates

MOST_GROUPS = 40  # that are left out one by one: each is a fit
EXTREME = 700.0  # of ln N* and ln D*/N*: a law that nothing identifies may put them beyond any number


@dataclass(frozen=True)
class Choice:
    """The best run for a budget C = 6 N D according to one fit. `without` names the group that it did not see.

    Numbers are None where the runs that are left identify no law: `status` is then refused and `reason` says why.
    """

    law: str
    N: float | None
    tokens_per_parameter: float | None
    loss: float | None
    status: str = ""
    without: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """Choices for one budget."""

    flops: float
    laws: tuple[Choice, ...]
    left_out: tuple[Choice, ...]
    grouped_by: str

    def to_json(self) -> dict[str, object]:
        return {
            "flops": self.flops,
            "laws": [asdict(c) for c in self.laws],
            "left_out": [asdict(c) for c in self.left_out],
            "grouped_by": self.grouped_by,
            "spread": {name: {k: list(v) for k, v in ranges(c).items()} for name, c in self.sets() if c and known(c)},
        }

    def sets(self) -> list[tuple[str, Sequence[Choice]]]:
        """Return the two sets of choices; refused laws take no part unless every law is refused."""
        believed = [c for c in self.laws if c.status != "refused"]
        return [("laws", believed or self.laws), ("left_out", self.left_out)]


def known(choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices of fits that could be made."""
    return [c for c in choices if c.N is not None]


def ranges(choices: Sequence[Choice]) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest N, D/N and loss of the fits that could be made."""
    found = {}
    for name in ("N", "tokens_per_parameter", "loss"):
        values = [float(getattr(c, name)) for c in known(choices)]
        found[name] = (min(values), max(values))
    return found


def sensitivity(
    table: Table, law: Law, groups: NDArray[np.str_] | None, by: str, flops: float, cost: Objective = HUBER
) -> Sensitivity:
    """Ask every surface law, and `law` with each of `groups` (n,) left out, for the best run at `flops`.

    Without groups the sizes N are left out, one after the other.
    """
    if groups is None:
        groups, by = clusters(table, "N"), "N"
    return Sensitivity(
        flops, tuple(_over_laws(table, flops, cost)), tuple(_left_out(table, law, groups, flops, cost)), by
    )


def _over_laws(table: Table, flops: float, cost: Objective) -> list[Choice]:
    found = []
    for name in candidates(table):
        if set(FIXED[name].variables) == {"N", "D"}:
            fitted = fit_law(FIXED[name], table.columns, table.loss, cost)
            found.append(_choice(fitted, flops, status=certify(fitted).status))
    return found


def _left_out(table: Table, law: Law, groups: NDArray[np.str_], flops: float, cost: Objective) -> list[Choice]:
    names = in_order(groups)
    if not 1 < len(names) <= MOST_GROUPS:
        return []
    found = []
    for name in names:
        rest = table.select(groups != name)
        why = obstacles(law, rest.columns)
        if why or len(rest) < len(law.params):
            found.append(Choice(law.name, None, None, None, "refused", str(name), why[0] if why else "too few runs"))
            continue
        fitted = fit_law(law, rest.columns, rest.loss, cost, every_start=EVERY_START)
        found.append(_choice(fitted, flops, without=str(name)))
    return found


def _choice(fitted: Fitted, flops: float, *, status: str = "", without: str = "") -> Choice:
    theta = fitted.theta[None]
    log_n = log_optimal_n(fitted.law, theta, fitted.centre, flops)
    loss = float(np.exp(loss_at(fitted.law, theta, fitted.centre, log_n, flops))[0])
    N, ratio = np.exp(np.clip([log_n[0], np.log(flops / 6) - 2 * log_n[0]], -EXTREME, EXTREME))
    return Choice(fitted.law.name, float(N), float(ratio), loss, status, without)
