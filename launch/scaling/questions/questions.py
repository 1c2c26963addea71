"""What `escala fit` adds to a fit and its decision: ways to count, families compared, a published law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from launch.scaling.laws.groups import Behind, SharedExponents, behind
from launch.scaling.questions.conventions import Counted, count_every_way
from launch.scaling.questions.judged import Judged
from launch.scaling.questions.published import Against, compare
from launch.scaling.questions.sensitivity import Sensitivity, sensitivity
from trainer.contract.errors import UserError


@dataclass(frozen=True)
class Deeper:
    """Each part is None or empty where it was not asked for or does not apply."""

    sensitivity: Sensitivity | None = None
    counting: tuple[Counted, ...] = ()
    behind: tuple[Behind, ...] = ()
    reference: str = ""
    against: Against | None = None

    def to_json(self) -> dict[str, object]:
        """Return the parts that are there, by name."""
        found: dict[str, Any] = {}
        if self.sensitivity is not None:
            found["sensitivity"] = self.sensitivity.to_json()
        if self.counting:
            found["counting"] = [c.to_json() for c in self.counting]
        if self.behind:
            found["behind"] = {"reference": self.reference, "families": [asdict(b) for b in self.behind]}
        if self.against is not None:
            found["against"] = self.against.to_json()
        return found


def deepen(decided: Judged, *, target: float | None, counting: bool, against: Mapping[str, float]) -> Deeper:
    """Answer the further questions about a fit. Raises `UserError` where the law cannot be asked for a budget."""
    result = decided.study
    fitted, law = result.fitted, result.law
    if fitted is None:
        return Deeper()
    asked = None
    if target is not None:
        if set(law.variables) != {"N", "D"}:
            raise UserError(f"--target: law {law.name!r} is of {', '.join(law.variables)}; a decision needs N and D")
        asked = None if decided.drawn is None else sensitivity(decided.drawn, target)
    compared: tuple[Behind, ...] = ()
    reference = ""
    if isinstance(law, SharedExponents):
        public = law.public(fitted.theta[None], fitted.centre)
        draws = None if fitted.draws is None else law.public(fitted.draws, fitted.centre)
        compared = tuple(behind(law, public, draws))
        (reference,) = set(result.table.labels["group"]) - set(law.groups)
    ways = tuple(count_every_way(result.table, law, fitted.cost)) if counting else ()
    published = compare(fitted, against, result.intervals()) if against else None
    return Deeper(asked, ways, compared, str(reference), published)
