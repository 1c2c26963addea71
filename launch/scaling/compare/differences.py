"""What differs between base and variant beside the change that is meant: read from the configurations of their runs.

An accidental second difference is the commonest way to be wrong about a change, so that these are printed first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launch.scaling.table.reading import Row
from launch.scaling.tune.knobs import KNOBS, SETTINGS, origin_column
from trainer.config.identity import Determines, determining
from trainer.config.load import load_run
from trainer.contract.errors import UserError
from trainer.contract.plain_json import DamagedFileError, read_object
from trainer.contract.run_dir import RunDir

# Columns of a ledger that no change of a setting explains; the first refuses a comparison (`comparison.py`).
COLUMNS = ("tokenizer_hash", "data_hash", "git_revision", "unique_tokens", "tokens", "layout")
FOLLOW = ("lr", "params_body", "flops_exact")  # what a change of the model brings with it
RECIPE = "optim.recipe"  # brings these with it where the ledger says so
BY_RECIPE = {SETTINGS[knob]: origin_column(knob) for knob in KNOBS if knob != "lr"}
NEAR = 1e-9  # relative difference of numbers that are equal
NO_MEANING = ("name", "tracking.group")

Kind = Literal["change", "beside", "follows"]


@dataclass(frozen=True)
class Difference:
    """A setting or column that differs, with the values of the first rung where it does."""

    key: str
    base: str
    variant: str
    kind: Kind
    rungs: int  # at which it differs

    @property
    def text(self) -> str:
        """The difference in words: key: base -> variant."""
        return f"{self.key}: {self.base} -> {self.variant}"


@dataclass(frozen=True)
class Differences:
    """All differences, and how far they are known."""

    found: tuple[Difference, ...]
    configs: bool  # both configurations were there to compare at some rung; else the ledgers' columns alone are known
    stated: bool  # which settings are the change is known

    def of(self, kind: Kind) -> tuple[Difference, ...]:
        """Return the differences of one kind."""
        return tuple(one for one in self.found if one.kind == kind)


def differences(
    pairs: Sequence[tuple[Row, Row]], ledgers: tuple[Path, Path], change: Sequence[str], compared: Sequence[str]
) -> Differences:
    """Compare one run of the base with one of the variant at each rung.

    `change`: settings and columns that are the change; without any, a single setting that differs is. `compared`:
    settings that are no difference, such as seeds of runs that are no pairs.
    """
    seen: dict[str, list[tuple[str, str]]] = {}
    configs = False
    for base, variant in pairs:
        both = [settings_of(row, ledger) for row, ledger in zip((base, variant), ledgers, strict=True)]
        configs = configs or all(both)
        values = [
            _values(row, settings if all(both) else {}) for row, settings in zip((base, variant), both, strict=True)
        ]
        sides = _flat(values[0], values[1]), _flat(values[1], values[0])
        for key in dict.fromkeys([*sides[0], *sides[1]]):
            one, other = sides[0].get(key), sides[1].get(key)
            if key not in compared and not _equal(one, other):
                seen.setdefault(key, []).append((_shown(one), _shown(other)))
    beside = [key for key in seen if key not in FOLLOW and key not in COLUMNS]
    stated = tuple(change) or (tuple(beside) if len(beside) == 1 else ())
    by_recipe = [key for key, by in BY_RECIPE.items() if any(row.get(by) == "recipe" for pair in pairs for row in pair)]
    followed = (*FOLLOW, *(by_recipe if RECIPE in stated else ()))
    found = [Difference(key, *ends[0], _kind(key, stated, followed), len(ends)) for key, ends in seen.items()]
    return Differences(tuple(found), configs, bool(stated))


def settings_of(row: Row, ledger: Path) -> dict[str, object]:
    """Return what determines the result of a run, by section, as its directory says; empty where that is gone."""
    folder = ledger if ledger.is_dir() else ledger.parent
    for root in (Path(str(row.get("run_dir", ""))), folder / "cells" / str(row["cell"])):
        run_dir = RunDir(root)
        if not run_dir.config.is_file():
            continue
        try:
            found = determining(load_run(run_dir.config), Determines.RESULT)
        except UserError:  # of another version of the schema
            return {}
        return {**found, **_precision(run_dir)}
    return {}


def _precision(run_dir: RunDir) -> dict[str, object]:
    """Return what `precision: auto` came to on the ranks."""
    try:
        return {"precision": read_object(run_dir.plan).get("precision")}
    except (DamagedFileError, FileNotFoundError):
        return {}


def _flat(values: Mapping[str, object], others: Mapping[str, object], above: str = "") -> dict[str, object]:
    """Return values by dotted key; a section that the other side has not is one value."""
    found: dict[str, object] = {}
    for key, value in values.items():
        name, other = f"{above}{key}", others.get(key)
        if name not in NO_MEANING:
            if isinstance(value, dict) and isinstance(other, dict):
                found |= _flat(value, other, f"{name}.")
            else:
                found[name] = value
    return found


def _values(row: Row, settings: Mapping[str, object]) -> dict[str, object]:
    columns = {key: row.get(key) for key in (*COLUMNS, *FOLLOW)}
    stated = settings or (row.get("settings") or {})
    return {**columns, **{key: value for key, value in stated.items() if key not in columns}}


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float | int):
        return abs(one - other) <= NEAR * max(abs(one), abs(other))
    return one == other


def _kind(key: str, stated: Sequence[str], followed: Sequence[str]) -> Kind:
    if key in followed:
        return "follows"
    return "change" if any(key == one or key.startswith(f"{one}.") for one in stated) else "beside"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return (text if len(text) <= 40 else f"{text[:37]}...") or "none"
