"""What a sweep file says of each of its cells: the settings on top of the run that they share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from launch.sweep.cells.config import SweepConfig
from trainer.contract.errors import UserError

INIT, ORDER = "seed", "data.seed"  # without the second, the first is that of the data order too


def settings_of(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Return the settings of each cell: rungs with every combination, seed and change, then the single cells.

    Raises UserError where two parts of the file say the same setting, and for a sweep without cells.
    """
    seeds = _seeds(sweep)
    _refuse_two_homes({"vary": sweep.vary, "rungs": _keys(sweep.rungs), "seeds": _keys(seeds)})
    combinations = [dict(zip(sweep.vary, values, strict=True)) for values in itertools.product(*sweep.vary.values())]
    parts = (sweep.changes or ({},), sweep.rungs or ({},), combinations, seeds or ({},))
    grid = [{**rung, **values, **seed, **change} for change, rung, values, seed in itertools.product(*parts)]
    found: list[dict[str, Any]] = []
    for settings in [*(grid if sweep.changes or sweep.rungs or sweep.vary or seeds else []), *sweep.cells]:
        if settings not in found:
            found.append(settings)
    if not found:
        raise UserError(f"sweep {sweep.name!r} has no cells: give 'rungs', 'vary', 'changes', 'seeds' or 'cells'")
    return found


def _seeds(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Return the settings that make the seeds of a cell; none where the run's own seed is to be used."""
    if isinstance(sweep.seeds, int):
        return [{INIT: k} for k in range(sweep.seeds)] if sweep.seeds > 1 else []
    pairs = itertools.product(range(sweep.seeds.init), range(sweep.seeds.order))
    return [{INIT: init, ORDER: order} for init, order in pairs]


def _keys(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    return {key for entry in entries for key in entry}


def _refuse_two_homes(parts: Mapping[str, Any]) -> None:
    for (one, keys), (other, more) in itertools.combinations(parts.items(), 2):
        if both := sorted(set(keys) & set(more)):
            raise UserError(f"{both[0]} is in {one!r} and in {other!r} of the sweep: leave it in one of them")
