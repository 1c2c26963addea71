"""Families of models on one ladder: a law each, and how many times another's parameters and FLOPs each needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from launch.scaling.laws.groups import SharedExponents, behind, indicator_columns
from launch.scaling.laws.identify import log_spread
from launch.scaling.laws.powers import CHINCHILLA, ONE_VARIABLE
from launch.scaling.other.equal_sizes import EqualSizes, equal_sizes
from launch.scaling.other.ladder import Ladder, choose_variable, fit_ladder
from launch.scaling.table.families import families_of
from launch.scaling.table.table import Table
from launch.scaling.trust.study import study
from trainer.contract.errors import UserError

BOOTSTRAP = 400
Multiple = tuple[float, float | None, float | None]  # with its 95 % interval, None where there is none


@dataclass(frozen=True)
class Needs:
    """How many times the parameters, tokens and training FLOPs of the reference a family needs for one loss.

    None: the runs do not tell, since all have the same.
    """

    family: str
    parameters: Multiple | None
    tokens: Multiple | None
    flops: Multiple | None


@dataclass(frozen=True)
class FamilyLadders:
    """A ladder for each family that has one, the comparison at equal size and that at equal loss."""

    table: Table
    variable: str
    families: tuple[str, ...]  # the reference first
    ladders: dict[str, Ladder]
    at_equal_size: EqualSizes | None  # None for tables without N and D
    needs: tuple[Needs, ...]
    formula: str  # of the law with shared exponents behind `needs`
    cannot: tuple[str, ...]

    @property
    def reference(self) -> str:
        """Return the family that the others are compared with."""
        return self.families[0]


def fit_families(table: Table) -> FamilyLadders:
    """Fit a ladder for each family, and one law with shared exponents. Raises UserError where none has a ladder."""
    variable, families = choose_variable(table), families_of(table)
    ladders, cannot = {}, []
    for name in families:
        try:
            ladders[name] = fit_ladder(table.select(table.labels["group"] == name), variable)
        except UserError as error:
            cannot.append(f"{name} has no law of its own: {error}")
    if not ladders:
        raise UserError("; ".join(cannot))
    compared = equal_sizes(table) if table.has("N", "D") else None
    needs = {v: dict(_multiples(table, families, v)) for v in _told_apart(table)}
    if not needs.keys() - {"C"}:
        needs = {}
    cannot += [f"{what} at equal loss: all runs have the same" for v, what in WHAT.items() if v not in needs]
    rows = tuple(Needs(name, *(needs.get(v, {}).get(name) for v in WHAT)) for name in families[1:])
    law = _law(families, variable)
    return FamilyLadders(table, variable, families, ladders, compared, rows, law.formula, tuple(cannot))


WHAT = {"N": "parameters", "D": "tokens", "C": "FLOPs"}


def _told_apart(table: Table) -> Iterator[str]:
    """Yield the variables of which the runs have several values."""
    return (v for v in WHAT if v in table.columns and log_spread(table.columns[v]) >= 0.05)


def _law(families: tuple[str, ...], variable: str) -> SharedExponents:
    return SharedExponents(ONE_VARIABLE[f"power-{variable}-floor"], tuple(sorted(families[1:])))


def _multiples(table: Table, families: tuple[str, ...], variable: str) -> Iterator[tuple[str, Multiple]]:
    """Yield each family with how many times the reference's `variable` it needs, by one law with shared exponents."""
    columns = {**table.columns, **indicator_columns(table.labels["group"], families[0])}
    law = _law(families, variable)
    fitted = study(replace(table, columns=columns), law, bootstrap=BOOTSTRAP).fitted
    if fitted is None:
        return
    values = law.public(fitted.theta[None], fitted.centre)
    draws = None if fitted.draws is None else law.public(fitted.draws, fitted.centre)
    for name in law.groups:
        column = law.params.index(f"rho_{variable}[{name}]")
        if draws is None:
            yield name, (float(1 / values[0, column]), None, None)
        else:
            low, high = np.quantile(1 / draws[:, column], [0.025, 0.975])
            yield name, (float(1 / values[0, column]), float(low), float(high))


def needs_on_surface(table: Table) -> tuple[tuple[Needs, ...], str]:
    """Return what each family needs where N and D both vary, and the law's formula; none where it is not fitted."""
    families = families_of(table)
    law = SharedExponents(CHINCHILLA, tuple(sorted(families[1:])))
    columns = {**table.columns, **indicator_columns(table.labels["group"], families[0])}
    fitted = study(replace(table, columns=columns), law, bootstrap=BOOTSTRAP).fitted
    if fitted is None:
        return (), law.formula
    draws = None if fitted.draws is None else law.public(fitted.draws, fitted.centre)
    found = {b.group: b for b in behind(law, law.public(fitted.theta[None], fitted.centre), draws)}
    ordered = [found[name] for name in families[1:]]
    return tuple(Needs(b.group, b.parameters, b.tokens, b.flops) for b in ordered), law.formula
