"""Give a cell that is about to start its expected curve, where the cells that are done foretell one."""

from __future__ import annotations

from collections.abc import Sequence

from launch.scaling.live.ledger import cached
from launch.scaling.live.make import expected_curve
from launch.scaling.live.runs import Finished, kind_of
from launch.sweep.cells.planned import PlannedCell
from trainer.contract.errors import UserError
from trainer.contract.run_dir import Status
from trainer.plan.length import total_steps


def write_expected(one: PlannedCell, cells: Sequence[PlannedCell], eval_set: str) -> bool:
    """Write expected.json into a cell's directory; return whether there is one. One that it has is kept.

    Too few cells that are done, or none like this one, are no error: the first cells of any sweep have no curve.
    """
    if one.run_dir.expected.exists():
        return True
    if one.run_dir.metrics.exists():  # it began without: a curve that is made later is no forecast of it
        return False
    config = one.cell.config
    every = config.tracking.log_every.steps(tokens_per_step=one.plan.tokens_per_step, total_steps=total_steps(config))
    try:
        curve = expected_curve(
            _finished(cells, eval_set), kind_of(config, one.id), eval_set=eval_set, logged_every=max(every, 1)
        )
    except UserError:
        return False
    curve.save(one.run_dir.expected)
    return True


def _finished(cells: Sequence[PlannedCell], eval_set: str) -> list[Finished]:
    found = []
    for one in cells:
        if one.cell.check_of is None and one.run_dir.read_status() is Status.DONE:
            try:
                found.append(cached(one.run_dir, eval_set))
            except UserError:  # its record cannot be used; `escala forecast --curve` says why
                continue
    return found
