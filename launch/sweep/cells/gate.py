"""A gate of two stages: every change at the small rungs, then the larger ones for the base and for what passed.

Whether a change passes is decided by the ledger alone, from the cells of the first stage, so that it is the same
whenever it is asked again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from launch.scaling.compare.each import Judged, judge_each
from launch.scaling.compare.sides import Ledger
from launch.scaling.other.changes import change_name
from launch.sweep.cells.config import Gate, SweepConfig
from launch.sweep.cells.settings import ladder_settings
from launch.sweep.ledger import ledger
from trainer.contract.errors import UserError


@dataclass(frozen=True)
class Passage:
    """A sweep as far as its gate is open. `judged`: each change by the first stage; empty until that has ended."""

    sweep: SweepConfig
    judged: tuple[tuple[Judged, bool], ...] = ()  # and whether it passed

    @property
    def lines(self) -> list[str]:
        """Say what passed, and why the others did not."""
        return [
            f"gate: {one.change} {'passes' if passed else 'does not pass'}: "
            + (
                one.problem
                if one.comparison is None
                else f"{one.comparison.verdict.word}, {one.comparison.verdict.reason}"
            )
            for one, passed in self.judged
        ]


def through_gate(sweep: SweepConfig, first: Collection[str], path: Path) -> Passage:
    """Return the sweep with the cells of its second stage, once every cell of the first has ended.

    `first`: the ids of those, as `cells_of` names them. Reads the ledger. Raises UserError for a gate over anything but
    changes of one base on a ladder.
    """
    if sweep.gate is None:
        return Passage(sweep)
    if len(sweep.changes) < 2 or {} not in sweep.changes or not sweep.rungs:
        raise UserError(
            f"sweep {sweep.name!r}: a gate judges changes of a base at small rungs: give 'rungs', and 'changes' with "
            "{} for the base"
        )
    ends = ledger.latest(path)
    if any(ends.get(cell, {}).get("status", "failed") == "failed" for cell in first):
        return Passage(sweep)
    rows = [row for row in ledger.read(path) if row["cell"] in first]
    gate = sweep.gate
    found = judge_each(Ledger(path, rows), eval_set=sweep.fit.eval_set, worth=gate.worth, asymptote=gate.asymptote)
    judged = tuple((one, _passes(one, gate)) for one in found)
    passed = {one.change for one, open_for in judged if open_for}
    changes = tuple(change for change in sweep.changes if change_name({"settings": change}) in passed)
    if not changes:
        return Passage(sweep, judged)
    larger = ladder_settings(sweep, gate.rungs, ({}, *changes), first=len(sweep.rungs))
    return Passage(sweep.model_copy(update={"cells": (*sweep.cells, *larger)}), judged)


def _passes(one: Judged, gate: Gate) -> bool:
    if one.comparison is None:
        return False
    word = one.comparison.verdict.word
    return word == "promote" if gate.passes == "promoted" else word != "reject"
