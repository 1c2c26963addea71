"""A cell whose data are prepared: its configuration knows its vocabulary, and its plan is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launch.sweep.cells.cell import Cell
from trainer.checkpoint.search import is_complete
from trainer.contract.run_dir import RunDir
from trainer.plan.plan import Plan


@dataclass(frozen=True)
class PlannedCell:
    """A cell, its plan, and where it runs."""

    cell: Cell
    plan: Plan
    run_dir: RunDir

    @property
    def id(self) -> str:
        """Return the cell's id."""
        return self.cell.id

    @property
    def branch_point(self) -> Path | None:
        """Return the trunk's checkpoint from which this cell goes on; None for a run of its own, or until it is there.

        Where the trunk ran before this was a branch it never is, and the cell is trained whole: the result is the same.
        """
        if self.cell.branch is None:
            return None
        point = self.cell.branch.checkpoint(self.run_dir.root.parent)
        return point if is_complete(point) else None

    @property
    def share(self) -> float:
        """Return the share of the run's tokens that the cell trains itself: a branch only those after it parts."""
        branch = self.cell.branch
        return 1 - self.plan.tokens_before(branch.step) / self.plan.tokens if branch else 1.0
