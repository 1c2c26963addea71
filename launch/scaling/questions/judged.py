"""A fit with the decision that it is asked for: what was drawn for it, its interval and its grade."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from launch.scaling.questions.next_run import Decision, decide
from launch.scaling.questions.saved_draws import draws_json
from launch.scaling.questions.saved_fit import SavedFit, saved_fit
from launch.scaling.trust.bootstrap import SEED
from launch.scaling.trust.decision_draws import draw_decision
from launch.scaling.trust.holdout import Chosen
from launch.scaling.trust.replicates import DecisionDraws
from launch.scaling.trust.residual_tests import Doubt, doubts
from launch.scaling.trust.study import Study
from launch.scaling.trust.verdict import FURTHER, NO_EVIDENCE, Evidence


@dataclass(frozen=True)
class Judged:
    """`study` has the decision's grade as its certificate's, where there is a decision.

    There is none for laws that are not of N and D, and where the runs identify no law.
    """

    study: Study
    drawn: DecisionDraws | None = None
    evidence: Evidence = NO_EVIDENCE
    decision: Decision | None = None
    doubts: tuple[Doubt, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fit with its decision, and what another budget can be asked with (`escala fit --json`)."""
        found = self.study.to_json() | {"doubts": [d.to_json() for d in self.doubts]}
        if self.decision is not None and self.drawn is not None:
            found["decision"] = self.decision.to_json() | {
                "drawn_by": self.drawn.cluster,
                "why": self.drawn.cluster_why,
            }
            found["internal_decision"] = draws_json(self.drawn) | {"reasons": list(self.evidence.reasons)}
        return found

    @property
    def saved(self) -> SavedFit:
        """The fit as one that can be asked for other budgets."""
        fitted, certificate = self.study.fitted, self.study.certificate
        assert fitted is not None, "a fit that was not made cannot be asked"
        return saved_fit(
            fitted, certificate.status, certificate.reasons, self.study.table, drawn=self.drawn, evidence=self.evidence
        )


def judged(
    result: Study, chosen: Chosen, *, target: float | None = None, cluster: str | None = None, seed: int = SEED
) -> Judged:
    """Draw the decision of a fit at `target` FLOPs (default: ten times the largest budget) and grade it.

    `cluster` names the groups that are drawn whole, instead of what the residuals demand. Errors that they share are no
    doubt where the parameters were drawn in the same way.
    """
    fitted, certificate, table = result.fitted, result.certificate, result.table
    if fitted is None or certificate.status == "refused":
        return Judged(result)
    against = doubts(fitted, table, None if fitted.draws is None else cluster)
    if set(result.law.variables) != {"N", "D"}:
        return Judged(result, doubts=against)
    fits = {result.law.name: (fitted, chosen.near.get(result.law.name, 1.0))}
    fits |= {name: (chosen.fits[name], share) for name, share in chosen.near.items() if name != result.law.name}
    drawn = draw_decision(fits, table, cluster=cluster, seed=seed)
    evidence = Evidence(
        reasons=certificate.reasons,
        doubts=tuple(d.sentence for d in against),
        held_out=next((h.mean for h in chosen.held_out if h.law == result.law.name), None),
        largest={name: float(table.columns[name].max()) for name in ("N", "D", "C") if table.has(name)},
    )
    undecided = Judged(result, drawn, evidence, None, against)
    flops = target or FURTHER * float((6 * table.N * table.D).max())
    decision = decide(undecided.saved, flops)
    assert decision.verdict is not None, "what was drawn is graded"
    graded = replace(certificate, status=decision.verdict.status, reasons=decision.verdict.reasons)
    return replace(undecided, study=replace(result, certificate=graded), decision=decision)
