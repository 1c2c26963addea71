"""Trunks: runs of one size and many lengths share what they have in common and part where their cooldowns begin.

Under a `wsd` schedule (Hu et al. 2024, arXiv 2404.06395; Hagele et al. 2024, arXiv 2405.18392) a run of any length is
the same run until its cooldown. So the longest run of a size is the trunk, it keeps a checkpoint wherever a shorter one
would begin to cool down, and the shorter ones, its branches, go on from there. That changes what is spent and
nothing else: a branch's name, data order and result are those of the whole run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.sweep.cells.cell import Branch, Cell
from trainer.config.identity import hash_of
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.plan.identity import result_values
from trainer.plan.learning_rate import cooldown_start
from trainer.plan.length import total_steps
from trainer.plan.plan import warmup_steps


def share_trunks(cells: list[Cell]) -> list[Cell]:
    """Return the cells, each that is not the longest of its kind with its branch, each trunk with what it has to keep.

    Cells are of a kind when nothing but their length differs. Raises `UserError` for a schedule that depends on the
    length before the cooldown.
    """
    families: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.check_of is None:
            _refuse_other_schedules(cell)
            families.setdefault(_without_length(cell.config), []).append(cell)
    branches, kept = {}, {}
    for family in families.values():
        trunk = max(family, key=lambda cell: total_steps(cell.config))
        steps = {c.id: _parting(c.config) for c in family if c is not trunk}
        branches.update({name: Branch(trunk.id, step) for name, step in steps.items()})
        kept[trunk.id] = set(steps.values())
    return [
        replace(cell, branch=branches.get(cell.id), config=_keeping(cell.config, kept.get(cell.id, set())))
        for cell in cells
    ]


def from_branch_point(config: RunConfig, checkpoint: Path) -> RunConfig:
    """Return the configuration of a branch that goes on from its trunk's checkpoint."""
    update = {"load": "always", "source": str(checkpoint.resolve())}
    return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update=update)})


def _keeping(config: RunConfig, steps: set[int]) -> RunConfig:
    keep_at = tuple(sorted({*config.checkpoint.keep_at, *steps}))
    return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"keep_at": keep_at})})


def _parting(config: RunConfig) -> int:
    tokens = config.batch.tokens_per_step
    return cooldown_start(config.schedule, total_steps=total_steps(config), tokens_per_step=tokens)


def _without_length(config: RunConfig) -> str:
    values = result_values(config, gpu=False)  # every cell of a sweep has the same
    return hash_of({key: value for key, value in values.items() if key != "steps"})


def _refuse_other_schedules(cell: Cell) -> None:
    schedule = cell.config.schedule
    if schedule.kind != "wsd":
        raise UserError(
            f"trunks: cell {cell.id} has the schedule {schedule.kind!r}, which depends on the run's length from its "
            "beginning; set schedule.kind to wsd, or take 'trunks' out of the sweep"
        )
    if schedule.warmup.unit == "%":
        raise UserError(
            f"trunks: the warm-up of cell {cell.id} is {schedule.warmup} of its length, so no two lengths begin alike; "
            f"give schedule.warmup in steps or tokens, such as '{max(1, warmup_steps(cell.config))} steps'"
        )
