"""The cells of a sweep: pure functions from its configuration to named runs.

A cell's id ends with a hash of everything that determines its result, so a sweep that is run again, on any
machine and at any layout, knows what it has and does only what is missing.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from launch.sweep.cells.cell import Cell
from launch.sweep.cells.config import LayoutCheck, SweepConfig
from launch.sweep.cells.trunks import share_trunks
from trainer.config.load import run_from_values, set_values
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError


def settings_of(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Return the settings of each cell: every combination of what varies, then the single ones."""
    grid = [dict(zip(sweep.vary, values, strict=True)) for values in itertools.product(*sweep.vary.values())]
    found: list[dict[str, Any]] = []
    for settings in [*(grid if sweep.vary else []), *sweep.cells]:
        if settings not in found:
            found.append(settings)
    if not found:
        raise UserError(f"sweep {sweep.name!r} has no cells: give 'vary' or 'cells'")
    return found


def cells_of(sweep: SweepConfig) -> list[Cell]:
    """Return the cells in the order of the file, each followed by its checks. Raises UserError."""
    cells = []
    checks = list(sweep.layout_checks)
    for settings in settings_of(sweep):
        cell = _cell(sweep, settings)
        cells.append(cell)
        for check in [c for c in checks if c.cell == settings]:
            cells.append(_check(sweep, cell, check))
            checks.remove(check)
    if checks:
        raise UserError(f"layout_checks: no cell of the sweep has just the settings {checks[0].cell}")
    _refuse_twins(cells)
    return share_trunks(cells) if sweep.trunks else cells


def _cell(sweep: SweepConfig, settings: dict[str, Any]) -> Cell:
    config = _config(sweep, settings)
    name = f"{_slug(settings)}-{config.result_hash()[:8]}"
    return Cell(name, settings, _named(sweep, config, name))


def _check(sweep: SweepConfig, cell: Cell, check: LayoutCheck) -> Cell:
    settings = {**cell.settings, **check.set}
    config = _config(sweep, settings)
    if config.result_hash() != cell.config.result_hash():
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
    parts = [f"{key.rsplit('.', 1)[-1]}={value}" for key, value in settings.items()]
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", "-".join(parts))[:80]


def _refuse_twins(cells: list[Cell]) -> None:
    """Raise UserError for two cells that compute the same, be it that two sizes come to one model."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        if cell.check_of is not None:
            continue
        model = cell.config.model
        key = cell.config.model_copy(update={"model": model.model_copy(update={"size": None})}).result_hash()
        if key in seen:
            text = f"two cells are the same run: {seen[key].settings} and {cell.settings}"
            if model.size != (other := seen[key].config.model.size):
                text += (
                    f": model.size {other} and {model.size} come to one model, {model.d_model} wide with "
                    f"{model.n_layers} layers; take one of them out, or give d_model and n_layers"
                )
            raise UserError(text)
        seen[key] = cell
