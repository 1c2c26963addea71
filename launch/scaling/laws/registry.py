"""Every law by name. Laws that depend on the table (its families, its unrepeated runs) are made for it."""

from __future__ import annotations

from launch.scaling.laws.base import Law
from launch.scaling.laws.farseer import Farseer
from launch.scaling.laws.outer import KaplanND, OuterExponent
from launch.scaling.laws.overtraining import OverTraining
from launch.scaling.laws.powers import CHINCHILLA, ONE_VARIABLE
from trainer.contract.errors import UserError, did_you_mean

_FIXED: list[Law] = [CHINCHILLA, OuterExponent(), KaplanND(), OverTraining(), Farseer(), *ONE_VARIABLE.values()]
FIXED: dict[str, Law] = {law.name: law for law in _FIXED}
FROM_TABLE = ("data-constrained", "shared-exponents")
LAWS = (*FIXED, *FROM_TABLE)


def find_law(name: str) -> Law:
    """Return a law that needs no table. Raises `UserError` with the nearest known one."""
    if name not in FIXED:
        raise UserError(f"unknown law {name!r}{did_you_mean(name, LAWS)}")
    return FIXED[name]
