"""Every change of one sweep against its base."""

from __future__ import annotations

from dataclasses import dataclass

from launch.scaling.compare.comparison import Comparison, compare
from launch.scaling.compare.sides import Choice, Ledger, changes_in, settings_changed, two_sides
from trainer.contract.errors import UserError


@dataclass(frozen=True)
class Judged:
    """One change: its comparison, or why there is none."""

    change: str
    comparison: Comparison | None
    problem: str = ""


def judge_each(
    ledger: Ledger, *, eval_set: str | None = None, worth: float = 1.0, asymptote: float | None = None
) -> list[Judged]:
    """Compare each change of a ledger with the base, in the order of the ledger. What cannot be compared says why."""
    found = []
    for change in changes_in(ledger):
        try:
            base, variant = two_sides(ledger, None, Choice(variant=change, eval_set=eval_set))
            stated = settings_changed(base, variant, None)
            found.append(Judged(change, compare(base, variant, asymptote=asymptote, worth=worth, change=stated)))
        except UserError as error:
            found.append(Judged(change, None, str(error)))
    return found
