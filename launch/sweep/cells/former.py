"""What cells were called before a name was the hash of the resolved plan, so that nobody trains them again unawares.

Those names left out `skip_steps`, a warm start's source, `guard.non_finite` and what `precision: auto` came to. So one
that is found tells that a run like this was made, but not whether it was the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.sweep.cells.cell import Cell
from trainer.config.identity import hash_of
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError

_LEFT_OUT: dict[str, Any] = {
    **dict.fromkeys(("parallel", "tracking", "checkpoint", "guard", "name", "device", "skip_steps"), True),
    "data": {"name", "root", "begin", "cache"},
    "batch": {"micro_batch"},
}


def former_hash(config: RunConfig) -> str:
    """Return the hash that a name ended with."""
    return hash_of(config.model_dump(mode="json", exclude=_LEFT_OUT))


def former_names(cells: Sequence[Cell], known: Mapping[str, Any]) -> dict[str, str]:
    """Return former name -> name of the cells that the ledger knows by their former name alone.

    `known` has the last row of each name in the ledger. Those that only failed are left out.
    """
    return {
        cell.former: cell.id
        for cell in cells
        if cell.former in known and cell.id not in known and known[cell.former].get("status", "done") != "failed"
    }


def refuse_former(cells: Sequence[Cell], known: Mapping[str, Any], ledger: Path) -> None:
    """Raise UserError where cells that would be trained are in the ledger under their former names."""
    if found := former_names(cells, known):
        old, new = next(iter(found.items()))
        raise UserError(
            f"{ledger} has {len(found)} of the sweep's cells under names of an earlier Escala ({old}, now {new}). "
            "Those names did not tell skip_steps, a warm start's checkpoint, guard.non_finite and the precision, so "
            "whether these are the same runs is not known. `escala fit` and `escala report` read the ledger as it is; "
            "to train the cells again, give the sweep another name"
        )
