"""Every law by name."""

from __future__ import annotations

from launch.scaling.laws.base import Law
from launch.scaling.laws.powers import CHINCHILLA, ONE_VARIABLE
from trainer.errors import UserError, did_you_mean

LAWS: dict[str, Law] = {CHINCHILLA.name: CHINCHILLA, **ONE_VARIABLE}


def find_law(name: str) -> Law:
    """Return the law of that name. Raises `UserError` with the nearest known one."""
    if name not in LAWS:
        raise UserError(f"unknown law {name!r}{did_you_mean(name, LAWS)}")
    return LAWS[name]
