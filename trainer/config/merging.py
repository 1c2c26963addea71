"""Lay one set of configuration values over another."""

from __future__ import annotations

import copy
from typing import Any

from trainer.contract.errors import UserError

# Two ways to say one thing: the one that is laid above removes the one below.
REPLACES = {
    "steps": ("tokens",),
    "tokens": ("steps",),
    "size": ("d_model", "n_layers", "n_heads"),
    "mixer": ("pattern",),
    "pattern": ("mixer",),
}


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above` laid over it, mappings merged key by key (see `REPLACES`).

    A mapping of places, such as {"0": ...}, over a list changes these entries of it. Raises UserError for a place that
    the list does not have.
    """
    merged = copy.deepcopy(below)
    for replaced in (other for key, others in REPLACES.items() if key in above for other in others):
        merged.pop(replaced, None)
    for key, value in above.items():
        merged[key] = lay_over(merged.get(key), value, key)
    return merged


def lay_over(below: Any, above: Any, key: str) -> Any:
    """Return what `key` has after `above` was laid over `below`, see `merge`."""
    if isinstance(above, dict) and isinstance(below, dict):
        return merge(below, above)
    if isinstance(below, list | tuple) and isinstance(above, dict) and above and not are_places(above):
        raise UserError(
            f"{key} is a list of {len(below)} entries: {key}.0 is its first one, and {key}.{next(iter(above))} is none"
        )
    if not (isinstance(below, list | tuple) and are_places(above)):
        return copy.deepcopy(above)
    entries = list(copy.deepcopy(below))
    for place, value in above.items():
        if int(place) >= len(entries):
            raise UserError(f"there is no {key}.{place}: {key} has {len(entries)} entries, counted from 0")
        entries[int(place)] = lay_over(entries[int(place)], value, f"{key}.{place}")
    return entries


def are_places(value: Any) -> bool:
    """Return whether a value changes entries of a list: a mapping whose keys are all numbers."""
    return isinstance(value, dict) and bool(value) and all(str(key).isascii() and str(key).isdigit() for key in value)
