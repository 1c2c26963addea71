"""Parameters of a law as a user gives them: `E=1.8,A=500`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from launch.scaling.laws.base import Law
from trainer.contract.errors import UserError, did_you_mean


def parse_values(option: str, text: str | None) -> dict[str, float]:
    """Read `E=1.8,A=500`; empty where nothing was given. Raises `UserError`, which names the option."""
    if text is None:
        return {}
    try:
        return {k.strip(): float(v) for k, v in (pair.split("=") for pair in text.split(","))}
    except ValueError:
        raise UserError(f"{option} wants NAME=NUMBER pairs, not {text!r}") from None


def complete(option: str, law: Law, given: Mapping[str, float]) -> dict[str, float]:
    """Return a value for each parameter of `law`. Raises `UserError` for missing, unknown and impossible ones."""
    for name in given:
        if name not in law.params:
            raise UserError(f"{option}: law {law.name!r} has no parameter {name!r}{did_you_mean(name, law.params)}")
    missing = [n for n in law.params if n not in given]
    if missing:
        raise UserError(f"{option}: {', '.join(missing)} missing; {law.formula} needs {', '.join(law.params)}")
    wrong = [n for n in law.params if not np.isfinite(given[n]) or (n in law.positive and given[n] <= 0)]
    if wrong:
        raise UserError(
            f"{option}: " + ", ".join(f"{n} = {given[n]:g}" for n in wrong) + ": a positive number is needed"
        )
    return {n: float(given[n]) for n in law.params}
