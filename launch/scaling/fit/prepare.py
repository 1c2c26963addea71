"""A law made ready for a table: some laws depend on it (its families, its unrepeated runs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from launch.scaling.fit.fit import fit_law
from launch.scaling.laws.base import Law
from launch.scaling.laws.given import complete
from launch.scaling.laws.groups import SharedExponents, indicator_columns
from launch.scaling.laws.powers import CHINCHILLA, ONE_VARIABLE
from launch.scaling.laws.registry import find_law
from launch.scaling.laws.repeated import DataConstrained
from launch.scaling.table.families import families_of
from launch.scaling.table.table import Table
from trainer.contract.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Prepared:
    """A law and the table that it is to be fitted to."""

    law: Law
    table: Table


def prepare(name: str, table: Table, base: Mapping[str, float] | None = None, reference: str | None = None) -> Prepared:
    """Return the law of that name for a table.

    `base` gives the unrepeated law of `data-constrained`, `reference` the family that `shared-exponents` compares with
    (default: the one with the most runs).

    Raises `UserError` when the table lacks what the law needs.
    """
    if name == "data-constrained":
        table.require(("N", "D", "U"), name)
        return Prepared(DataConstrained(complete("--base", CHINCHILLA, base) if base else _unrepeated(table)), table)
    if name == "shared-exponents":
        return _shared(table, reference)
    return Prepared(find_law(name), table)


def _unrepeated(table: Table) -> dict[str, float]:
    fresh = table.columns["D"] <= table.columns["U"] * 1.0001
    if fresh.sum() < 7:
        raise UserError(
            f"data-constrained: only {int(fresh.sum())} runs saw no token twice, too few for the base law; give it "
            "with --base E=..,A=..,B=..,alpha=..,beta=.."
        )
    seen = table.select(fresh)
    return fit_law(CHINCHILLA, seen.columns, seen.loss).values


def _shared(table: Table, reference: str | None) -> Prepared:
    groups = table.labels.get("group")
    if groups is None or len(set(groups)) < 2:
        raise UserError("shared-exponents compares families: the table needs a column of groups (--map group=COLUMN)")
    names = families_of(table)
    if reference is not None and reference not in names:
        raise UserError(f"no run is of group {reference!r}{did_you_mean(reference, names)}")
    reference = reference or names[0]
    columns = indicator_columns(groups, reference)
    both = np.std(np.log(table.columns["N"])) > 0.05 and table.has("D") and np.std(np.log(table.D)) > 0.05
    common = CHINCHILLA if both else ONE_VARIABLE["power-N-floor"]
    law = SharedExponents(common, tuple(c.removeprefix("is:") for c in columns))
    return Prepared(law, replace(table, columns={**table.columns, **columns}))
