"""The cells of a sweep: pure functions from its configuration to named runs.

A cell's id ends with a hash of everything that determines its result, so a sweep that is run again, on any
machine and at any layout, knows what it has and does only what is missing.
"""

from __future__ import annotations

import json
import re
from typing import Any

from launch.sweep.cells.cell import Cell
from launch.sweep.cells.config import LayoutCheck, SweepConfig
from launch.sweep.cells.former import former_hash
from launch.sweep.cells.settings import settings_of
from launch.sweep.cells.trunks import share_trunks
from trainer.config.load import run_from_values, set_values
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.plan.identity import result_hash, warm_start_of


def cells_of(sweep: SweepConfig, *, gpu: bool = False) -> list[Cell]:
    """Return the cells in the order of the file, each followed by its checks. Raises UserError.

    `gpu`: whether their ranks find one, which `precision: auto` depends on.
    """
    cells = []
    checks = list(sweep.layout_checks)
    for settings in settings_of(sweep):
        cell = _cell(sweep, settings, gpu=gpu)
        cells.append(cell)
        for check in [c for c in checks if c.cell == settings]:
            cells.append(_check(sweep, cell, check, gpu=gpu))
            checks.remove(check)
    if checks:
        raise UserError(f"layout_checks: no cell of the sweep has just the settings {checks[0].cell}")
    _refuse_twins(cells, gpu=gpu)
    return share_trunks(cells) if sweep.trunks else cells


def _cell(sweep: SweepConfig, settings: dict[str, Any], *, gpu: bool) -> Cell:
    stated = _config(sweep, settings)
    config = _pinned(stated, settings)
    slug = _slug(settings)
    name = f"{slug}-{result_hash(config, gpu=gpu)[:8]}"
    former = f"{slug}-{former_hash(stated)[:8]}"
    return Cell(name, settings, _named(sweep, config, name), former=former)


def _pinned(config: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """Name the very checkpoint of a warm start, so that all ranks begin with the one that the cell's name tells.

    Raises UserError where there is none.
    """
    start = config.checkpoint
    if start.load != "warm_start" or start.source is None:
        return config
    found = warm_start_of(start.source)
    if found is None:
        raise UserError(
            f"cell {settings} begins with the weights of {start.source}, which has no checkpoint whose manifest can be "
            "read; the cell's name is made from it: set checkpoint.source to a checkpoint that is there"
        )
    return config.model_copy(update={"checkpoint": start.model_copy(update={"source": str(found[0])})})


def _check(sweep: SweepConfig, cell: Cell, check: LayoutCheck, *, gpu: bool) -> Cell:
    settings = {**cell.settings, **check.set}
    config = _pinned(_config(sweep, settings), settings)
    if result_hash(config, gpu=gpu) != result_hash(cell.config, gpu=gpu):
        raise UserError(f"layout_checks: {check.set} changes what is computed; only settings of the layout may differ")
    name = f"{cell.id}-check-{_slug(check.set)}"
    return Cell(name, settings, _named(sweep, config, name), check_of=cell.id, tolerance=check.tolerance)


def _config(sweep: SweepConfig, settings: dict[str, Any]) -> RunConfig:
    values = sweep.run if isinstance(sweep.run, dict) else {"base": sweep.run}
    where = f"sweep {sweep.name!r}, cell {settings}"
    assignments = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return run_from_values(set_values(values, assignments), where)


def _named(sweep: SweepConfig, config: RunConfig, name: str) -> RunConfig:
    group = config.tracking.group or sweep.name
    tracking = config.tracking.model_copy(update={"group": group})
    return config.model_copy(update={"name": name, "tracking": tracking})


def _slug(settings: dict[str, Any]) -> str:
    """Return settings by the last parts of their keys, whole where two end alike, as seed and data.seed."""
    last = [key.rsplit(".", 1)[-1] for key in settings]
    names = [name if last.count(name) == 1 else key for name, key in zip(last, settings, strict=True)]
    parts = [f"{name}={value}" for name, value in zip(names, settings.values(), strict=True)]
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", "-".join(parts))[:80]


def _refuse_twins(cells: list[Cell], *, gpu: bool) -> None:
    """Raise UserError for two cells that compute the same, be it that two sizes come to one model."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        if cell.check_of is not None:
            continue
        model = cell.config.model
        key = result_hash(cell.config, gpu=gpu)
        if key in seen:
            text = f"two cells are the same run: {seen[key].settings} and {cell.settings}"
            if model.size != (other := seen[key].config.model.size):
                text += (
                    f": model.size {other} and {model.size} come to one model, {model.d_model} wide with "
                    f"{model.n_layers} layers; take one of them out, or give d_model and n_layers"
                )
            raise UserError(text)
        seen[key] = cell
