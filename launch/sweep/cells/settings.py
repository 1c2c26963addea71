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
    grid = ladder_settings(sweep, sweep.rungs, sweep.changes, first=0)
    found: list[dict[str, Any]] = []
    for settings in [*grid, *sweep.cells]:
        if settings not in found:
            found.append(settings)
    if not found:
        raise UserError(f"sweep {sweep.name!r} has no cells: give 'rungs', 'vary', 'changes', 'seeds' or 'cells'")
    return found


def ladder_settings(
    sweep: SweepConfig, rungs: Sequence[dict[str, Any]], changes: Sequence[dict[str, Any]], *, first: int
) -> list[dict[str, Any]]:
    """Return the settings of these rungs with every combination, seed and change; none where nothing is given.

    `first` is the number of the first rung on its ladder: each rung has seeds of its own.
    """
    several = _seeds(sweep, 0)
    _refuse_two_homes({"vary": sweep.vary, "rungs": _keys(rungs), "seeds": _keys(several)})
    if not (rungs or changes or sweep.vary or len(several) > 1):
        return []
    combinations = [dict(zip(sweep.vary, values, strict=True)) for values in itertools.product(*sweep.vary.values())]
    ladder = [(rung, _seeds(sweep, first + k)) for k, rung in enumerate(rungs or ({},))]
    return [
        {**rung, **values, **seed, **change}
        for change in changes or ({},)
        for rung, seeds in ladder
        for values in combinations
        for seed in seeds
    ]


def _seeds(sweep: SweepConfig, rung: int) -> list[dict[str, Any]]:
    """Return the settings that make the seeds of a rung; one without any where the run's own seed is to be used.

    Models of one width begin with much the same values where they have one seed, and read the same text. So every rung
    has its own seeds, and what a seed does to one it does not do to the next; changes of a rung share them.
    """
    if isinstance(sweep.seeds, int):
        return [{INIT: rung * sweep.seeds + k} for k in range(sweep.seeds)] if sweep.seeds > 1 else [{}]
    inits, orders = (range(rung * number, (rung + 1) * number) for number in (sweep.seeds.init, sweep.seeds.order))
    return [{INIT: init, ORDER: order} for init, order in itertools.product(inits, orders)]


def _keys(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    return {key for entry in entries for key in entry}


def _refuse_two_homes(parts: Mapping[str, Any]) -> None:
    for (one, keys), (other, more) in itertools.combinations(parts.items(), 2):
        if both := sorted(set(keys) & set(more)):
            raise UserError(f"{both[0]} is in {one!r} and in {other!r} of the sweep: leave it in one of them")
