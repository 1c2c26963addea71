"""Give the cells that are about to start their expected curves, where the cells that are done foretell them."""

from __future__ import annotations

from collections.abc import Sequence

from launch.scaling.live.ledger import cached
from launch.scaling.live.make import expected_curve
from launch.scaling.live.runs import Finished, kind_of
from launch.sweep.cells.planned import PlannedCell
from trainer.contract.errors import UserError
from trainer.contract.run_dir import Status
from trainer.plan.length import total_steps


def expect_next(cells: Sequence[PlannedCell], eval_set: str) -> None:
    """Write the expected curves of the cells that begin next, from those that are done.

    All cells of a sweep may be handed over at once, so this is done anew whenever one has ended, for as many as run now
    and one more. A cell that has begun keeps the curve that it began with, or none: one made later is no forecast.
    """
    running = sum(one.run_dir.read_status() is Status.RUNNING for one in cells)
    for one in [one for one in cells if not _begun(one)][: running + 1]:
        write_expected(one, cells, eval_set)


def _begun(one: PlannedCell) -> bool:
    return one.run_dir.read_status() not in (None, Status.PENDING) or one.run_dir.metrics.exists()


def write_expected(one: PlannedCell, cells: Sequence[PlannedCell], eval_set: str) -> bool:
    """Write expected.json into a cell's directory; return whether the cells that are done foretell it.

    Too few of them, or none like this one, are no error: the first cells of any sweep have no curve.
    """
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
