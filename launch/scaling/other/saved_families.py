"""The families in the output of `escala fit --law shared-exponents --json`: a question is asked of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.contract.errors import UserError, did_you_mean


def of_family(values: Mapping[str, Any], family: str | None, path: str) -> Mapping[str, Any]:
    """Return a saved fit with the law of one family in place of that of all; without families, the fit itself.

    `family` None takes the reference. Raises `UserError` for a family that the fit does not know.
    """
    found = values.get("families")
    if found is None:
        if family is not None:
            raise UserError(f"{path} is a fit of {values['law']}, which has no families: leave --family out")
        return values
    name = found["reference"] if family is None else family
    if name not in found["fits"]:
        raise UserError(f"{path} has no family {name!r}{did_you_mean(name, list(found['fits']))}")
    return {**values, **found["fits"][name]}
