"""What a report about a law of N and D computes, once."""

from __future__ import annotations

from dataclasses import dataclass

from launch.scaling.fit.fit import Fitted
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.laws.registry import find_law
from launch.scaling.questions.conventions import budget_exponent
from launch.scaling.questions.judged import Judged, judged
from launch.scaling.questions.saved_fit import SavedFit
from launch.scaling.table.table import Table
from launch.scaling.trust.holdout import Chosen, HoldOut, choose_law
from launch.scaling.trust.study import Study, study

REPLICATES = 400  # of a law in a report


@dataclass(frozen=True)
class Surface:
    """Everything that the sections need, computed once."""

    table: Table
    judged: Judged  # the law that held-out budgets chose, with its decision
    chinchilla: Study
    chosen: Chosen  # why it is the best, and what each law missed

    @property
    def best(self) -> Study:
        """Return the study of the chosen law."""
        return self.judged.study

    @property
    def held(self) -> tuple[HoldOut, ...]:
        """Return what each law missed of the held-out runs."""
        return self.chosen.held_out

    @property
    def refused(self) -> bool:
        """Return whether the runs leave the allocation open: then no best size and no frontier is drawn."""
        return self.best.certificate.status == "refused"

    @property
    def fitted(self) -> Fitted:
        """Return the fit of the chosen law."""
        assert self.best.fitted is not None
        return self.best.fitted

    @property
    def saved(self) -> SavedFit:
        """Return the fit as it is written to a file."""
        return self.judged.saved

    @property
    def exponent(self) -> float:
        """Return a of N* ~ C^a."""
        return budget_exponent(self.fitted)


def analyse(table: Table) -> Surface | None:
    """Fit the laws of N and D; None where the runs do not identify one."""
    if not table.has("N", "D", "C"):
        return None
    chinchilla = study(table, CHINCHILLA, bootstrap=REPLICATES)
    if chinchilla.fitted is None or chinchilla.fitted.draws is None:
        return None
    chosen = choose_law(table)
    best = chinchilla
    if chosen.law != CHINCHILLA.name:
        best = study(table, find_law(chosen.law), bootstrap=REPLICATES, fits=chosen.fits)
    return Surface(table, judged(best, chosen), chinchilla, chosen)
