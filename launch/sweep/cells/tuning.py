"""The runs of a tuning: the sizes of a sweep, and a cell for each value of the learning rate that is tried at one.

What has been tried is read from the ledger: a row counts where a cell made from the same settings has its name, so runs
of another length, model or data never pass for one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launch.scaling.compare.sides import LADDER
from launch.scaling.other.changes import BASE, SEEDS, change_name
from launch.scaling.table.reading import TUNING
from launch.scaling.tune.parabola import Trial
from launch.sweep.cells.cell import Cell
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig
from launch.sweep.cells.settings import settings_of
from trainer.config.load import set_values

FACTOR = "optim.lr_factor"
KNOB = (FACTOR, "optim.lr")
DIGITS = 4  # of a factor, so that names stay short


@dataclass(frozen=True)
class Sizes:
    """The settings of each size, and which other cells of the sweep were left out of the tuning."""

    settings: tuple[dict[str, Any], ...]
    others: tuple[str, ...] = ()  # changes, mixers and the like, which share the recipe of the first


def untuned(sweep: SweepConfig) -> SweepConfig:
    """Return the sweep without a recipe: its settings are where tuning starts."""
    shared = sweep.run if isinstance(sweep.run, dict) else {"base": sweep.run}
    return sweep.model_copy(update={"run": set_values(shared, ["optim.recipe=null"])})


def sizes_of(sweep: SweepConfig) -> Sizes:
    """Return the sizes of a sweep: the settings of its base, or of its first change, without seeds and rates."""
    found: dict[str, list[dict[str, Any]]] = {}
    for settings in settings_of(sweep):
        own = {key: value for key, value in settings.items() if key not in (*SEEDS, *KNOB)}
        of_change = found.setdefault(change_name({"settings": own}, LADDER), [])
        if own not in of_change:
            of_change.append(own)
    name = BASE if BASE in found else next(iter(found))
    return Sizes(tuple(found[name]), tuple(other for other in found if other != name))


def cells_at(sweep: SweepConfig, settings: Sequence[Mapping[str, Any]], *, gpu: bool) -> list[Cell]:
    """Return a cell of the tuning for each of these settings."""
    alone = {"vary": {}, "rungs": (), "seeds": 1, "changes": (), "gate": None, "layout_checks": (), "trunks": False}
    cells = cells_of(sweep.model_copy(update={**alone, "cells": tuple(map(dict, settings))}), gpu=gpu)
    return [_named(cell) for cell in cells]


def with_factor(settings: Mapping[str, Any], own: float, x: float) -> dict[str, Any]:
    """Return the settings of a trial x octaves above the size's own factor."""
    return {**settings, FACTOR: float(f"{own * 2**x:.{DIGITS}g}")}


def tried(
    sweep: SweepConfig, size: Mapping[str, Any], own: float, rows: Sequence[Mapping[str, Any]], *, gpu: bool
) -> list[tuple[Trial, Mapping[str, Any]]]:
    """Return the trials of one size that have ended, each with its last row on the sweep's evaluation set.

    `own`: its factor without tuning. Runs that failed are none: they tell nothing of their rate.
    """
    last = {row["cell"]: row for row in rows if row.get("purpose") == TUNING and _of_size(row, size)}
    wanted = {row["settings"][FACTOR]: {**size, FACTOR: row["settings"][FACTOR]} for row in last.values()}
    names = {cell.id for cell in cells_at(sweep, list(wanted.values()), gpu=gpu)} if wanted else set()
    ends = {}
    for row in rows:
        if row["cell"] in names and (row.get("status") != "done" or row["eval_set"] == sweep.fit.eval_set):
            ends[row["cell"]] = row
    return [
        (Trial(math.log2(row["settings"][FACTOR] / own), _log_loss(row)), row)
        for row in ends.values()
        if row.get("status") != "failed"
    ]


def _of_size(row: Mapping[str, Any], size: Mapping[str, Any]) -> bool:
    settings = row.get("settings") or {}
    return FACTOR in settings and {key: value for key, value in settings.items() if key != FACTOR} == dict(size)


def _log_loss(row: Mapping[str, Any]) -> float:
    return math.log(row["loss"]) if row.get("status") == "done" and row["loss"] is not None else math.inf


def _named(cell: Cell) -> Cell:
    name = f"tune-{cell.id}"
    return replace(cell, id=name, config=cell.config.model_copy(update={"name": name}), purpose="tuning", former="")
