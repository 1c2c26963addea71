"""What `escala fit` adds to a fit: doubts, and on demand decisions for a budget, ways to count, families compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.scaling.laws.groups import Behind, SharedExponents, behind
from launch.scaling.questions.conventions import Counted, count_every_way
from launch.scaling.questions.next_run import Decision, decide
from launch.scaling.questions.published import Against, compare
from launch.scaling.questions.saved_fit import saved_fit
from launch.scaling.questions.sensitivity import Sensitivity, sensitivity
from launch.scaling.trust.residual_tests import Doubt, doubts
from launch.scaling.trust.study import Study
from trainer.contract.errors import UserError


@dataclass(frozen=True)
class Deeper:
    """Each part is None or empty where it was not asked for or does not apply."""

    decision: Decision | None = None
    sensitivity: Sensitivity | None = None
    counting: tuple[Counted, ...] = ()
    behind: tuple[Behind, ...] = ()
    reference: str = ""
    against: Against | None = None
    doubts: tuple[Doubt, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the doubts, and of the other parts those that are there, by name."""
        found: dict[str, Any] = {"doubts": [d.to_json() for d in self.doubts]}
        if self.decision is not None:
            found["decision"] = asdict(self.decision)
        if self.sensitivity is not None:
            found["sensitivity"] = self.sensitivity.to_json()
        if self.counting:
            found["counting"] = [c.to_json() for c in self.counting]
        if self.behind:
            found["behind"] = {"reference": self.reference, "families": [asdict(b) for b in self.behind]}
        if self.against is not None:
            found["against"] = self.against.to_json()
        return found


def deepen(
    result: Study,
    *,
    target: float | None,
    groups: NDArray[np.str_] | None,
    cluster: str | None,
    counting: bool,
    against: Mapping[str, float],
) -> Deeper:
    """Answer the further questions about a fit. Raises `UserError` where the law cannot be asked for a budget."""
    fitted, law = result.fitted, result.law
    if fitted is None:
        return Deeper()
    decision = asked = None
    if target is not None:
        if set(law.variables) != {"N", "D"}:
            raise UserError(f"--target: law {law.name!r} is of {', '.join(law.variables)}; a decision needs N and D")
        asked = sensitivity(result.table, law, groups, cluster or "N", target, fitted.cost)
        if result.certificate.status != "refused":
            decision = decide(saved_fit(fitted, result.certificate.status, (), result.table), target)
    compared: tuple[Behind, ...] = ()
    reference = ""
    if isinstance(law, SharedExponents):
        public = law.public(fitted.theta[None], fitted.centre)
        draws = None if fitted.draws is None else law.public(fitted.draws, fitted.centre)
        compared = tuple(behind(law, public, draws))
        (reference,) = set(result.table.labels["group"]) - set(law.groups)
    ways = tuple(count_every_way(result.table, law, fitted.cost)) if counting else ()
    published = compare(fitted, against, result.intervals()) if against else None
    drawn = None if fitted.draws is None else cluster
    against_it = doubts(fitted, result.table, drawn) if result.certificate.status != "refused" else ()
    return Deeper(decision, asked, ways, compared, str(reference), published, against_it)
