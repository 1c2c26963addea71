"""The runs of a tuning: the sizes of a sweep, and a cell for each value of a knob that is tried at one.

What has been tried is read from the ledger: a row counts where a cell made from the same settings has its name, so runs
of another length, model or data never pass for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launch.scaling.compare.sides import LADDER
from launch.scaling.other.changes import BASE, SEEDS, change_name
from launch.scaling.table.reading import TUNING
from launch.scaling.tune.knobs import FACTOR, SETTINGS, Knob
from launch.scaling.tune.parabola import Trial
from launch.scaling.tune.trials import trials_of
from launch.sweep.cells.cell import Cell
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig
from launch.sweep.cells.knobs import Start
from launch.sweep.cells.settings import settings_of
from trainer.config.load import set_values

RATES = (FACTOR, "optim.lr")


@dataclass(frozen=True)
class Sizes:
    """The settings of each size, and which other cells of the sweep were left out of the tuning."""

    settings: tuple[dict[str, Any], ...]
    others: tuple[str, ...] = ()  # changes, mixers and the like, which share the recipe of the first


def untuned(sweep: SweepConfig) -> SweepConfig:
    """Return the sweep without a recipe: its settings are where tuning starts."""
    shared = sweep.run if isinstance(sweep.run, dict) else {"base": sweep.run}
    return sweep.model_copy(update={"run": set_values(shared, ["optim.recipe=null"])})


def sizes_of(sweep: SweepConfig, knobs: Sequence[Knob] = ("lr",)) -> Sizes:
    """Return the sizes of a sweep: the settings of its base, or of its first change, without seeds and rates.

    Other knobs that the sweep varies are left out too. What a rung says of them is where the tuning of it starts.
    """
    left_out = {*SEEDS, *RATES, *(SETTINGS[knob] for knob in knobs if SETTINGS[knob] in sweep.vary)}
    found: dict[str, list[dict[str, Any]]] = {}
    for settings in settings_of(sweep):
        own = {key: value for key, value in settings.items() if key not in left_out}
        of_change = found.setdefault(change_name({"settings": own}, LADDER), [])
        if own not in of_change:
            of_change.append(own)
    name = BASE if BASE in found else next(iter(found))
    return Sizes(tuple(found[name]), tuple(other for other in found if other != name))


def cells_at(sweep: SweepConfig, settings: Sequence[Mapping[str, Any]], *, knob: Knob = "lr", gpu: bool) -> list[Cell]:
    """Return a cell of the tuning of a knob for each of these settings."""
    alone = {"vary": {}, "rungs": (), "seeds": 1, "changes": (), "gate": None, "layout_checks": (), "trunks": False}
    cells = cells_of(sweep.model_copy(update={**alone, "cells": tuple(map(dict, settings))}), gpu=gpu)
    return [_named(cell, knob) for cell in cells]


def tried(
    sweep: SweepConfig,
    start: Start,
    knob: Knob,
    fixed: Mapping[Knob, float],
    rows: Sequence[Mapping[str, Any]],
    *,
    gpu: bool,
) -> list[tuple[Trial, Mapping[str, Any]]]:
    """Return the trials of a knob at one size that have ended, each with its last row on the sweep's evaluation set.

    `fixed`: the values of the knobs tuned before. Runs that failed are none: they tell nothing of their value.
    """
    values: dict[str, float] = {}
    for row in rows:
        settings = row.get("settings") or {}
        value = settings.get(SETTINGS[knob])
        if row.get("purpose") != TUNING or not isinstance(value, int | float) or value <= 0:
            continue
        if start.settings_at({**fixed, knob: value}) == settings:
            values[row["cell"]] = value
    wanted = {value: start.settings_at({**fixed, knob: value}) for value in values.values()}
    names = {cell.id for cell in cells_at(sweep, list(wanted.values()), knob=knob, gpu=gpu)} if wanted else set()
    ends = {}
    for row in rows:
        if row["cell"] in names and (row.get("status") != "done" or row["eval_set"] == sweep.fit.eval_set):
            ends[row["cell"]] = row
    return trials_of([(start.octaves(knob, values[row["cell"]]), row) for row in ends.values()])


def _named(cell: Cell, knob: Knob) -> Cell:
    name = f"tune-{cell.id}"
    config = cell.config.model_copy(update={"name": name})
    return replace(cell, id=name, config=config, purpose="tuning", knob=knob, former="")
