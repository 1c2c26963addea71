"""The user's own law of the best learning rate or batch size, from sweeps of it at several sizes.

    log loss = level of the cell + kappa (log h - log h*)^2,   h* = k N^p D^q

A cell is everything but the swept setting. Near its optimum the loss is a parabola in log h (Wortsman et al. 2023,
arXiv 2309.14322, section 3); with one curvature for all cells the whole law is one linear regression. Nothing
about any published rule is built in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import check_replicates
from trainer.contract.errors import UserError

KNOBS = {"lr": "lr", "batch-size": "batch"}
NEAR = 0.15  # rows whose log loss lies further above the best of their cell are not near a parabola


@dataclass(frozen=True)
class TuningLaw:
    """h* = k N^p D^q; exponents of variables that do not vary are absent."""

    knob: str
    values: dict[str, float]  # k, p, q, curvature
    intervals: dict[str, tuple[float, float]]
    num_cells: int
    num_rows: int
    reasons: tuple[str, ...]

    @property
    def formula(self) -> str:
        powers = [f"{v}^{e}" for v, e in (("N", "p"), ("D", "q")) if e in self.values]
        return f"{self.knob}* = k " + " ".join(powers)

    def to_json(self) -> dict[str, object]:
        return {
            "law": self.knob,
            "formula": self.formula,
            "params": self.values,
            "intervals": {n: list(pair) for n, pair in self.intervals.items()},
            "certificate": {"status": "weak" if self.reasons else "certified", "reasons": list(self.reasons)},
            "rows_used": self.num_rows,
            "cells": self.num_cells,
        }


def fit_tuning(table: Table, knob: str, *, bootstrap: int = 200, seed: int = 0) -> TuningLaw:
    """Fit the law of `lr` or `batch-size`; intervals by resampling cells.

    Cells need at least three values of the setting. Raises `UserError` when no cell has them or when the loss has no
    minimum inside the sweeps.
    """
    column = KNOBS[knob]
    check_replicates(bootstrap, seed)
    table.require(("N", "D", column), knob)
    table = table.select(np.isfinite(table.columns[column]))  # rows without the setting are no trials of it
    cell, h = _cells(table, column), np.log(table.columns[column])
    usable = _near_optimum(table, cell, h)
    if not usable.any():
        raise UserError(f"{knob}: no cell has three values of {column} within {NEAR:.0%} of its best loss")
    x = {v: np.log(table.columns[v][usable]) for v in ("N", "D")}
    x = {v: values - values.mean() for v, values in x.items() if np.ptp(values) > 0.1}
    names, index = np.unique(cell[usable], return_inverse=True)
    rows = (index.ravel(), h[usable] - h[usable].mean(), np.log(table.loss[usable]))
    values = _solve(*rows, x)
    if values is None:
        raise UserError(f"{knob}: the loss has no minimum in {column} inside these sweeps: widen them")
    return TuningLaw(
        knob,
        _published(values, x, table, usable, h),
        _intervals(rows, x, len(names), bootstrap, seed),
        len(names),
        int(usable.sum()),
        tuple(_at_the_edge(table, cell, h, names)),
    )


def _cells(table: Table, column: str) -> Array:
    others = [c for c in ("N", "D", "lr", "batch", "U") if c in table.columns and c != column]
    # Each column is numbered first: an empty cell, NaN, is then one value of it, and not a new one in every row.
    keys = [np.unique(np.round(np.log(table.columns[c]), 6), return_inverse=True)[1].ravel() for c in others]
    return np.asarray(np.unique(np.stack(keys), axis=1, return_inverse=True)[1]).ravel()


def _near_optimum(table: Table, cell: Array, h: Array) -> Array:
    best = np.full(cell.max() + 1, np.inf)
    np.minimum.at(best, cell, np.log(table.loss))
    near = np.log(table.loss) < best[cell] + NEAR
    distinct = np.array([len(np.unique(np.round(h[near & (cell == c)], 6))) for c in range(cell.max() + 1)])
    return np.asarray(near & (distinct[cell] >= 3))


def _solve(index: Array, h: Array, log_loss: Array, x: dict[str, Array]) -> Array | None:
    """Return kappa, c and the exponents by least squares with a level for each cell, or None without a minimum."""
    columns = [h**2, h, *(h * values for values in x.values())]
    centred = [c - _means(c, index) for c in [*columns, log_loss]]
    solved, *_ = np.linalg.lstsq(np.stack(centred[:-1], axis=1), centred[-1], rcond=None)
    kappa = solved[0]
    return None if kappa <= 0 else np.concatenate([[kappa], -solved[1:] / (2 * kappa)])


def _means(values: Array, index: Array) -> Array:
    counts = np.maximum(np.bincount(index), 1)
    return np.asarray((np.bincount(index, values) / counts)[index])


def _published(values: Array, x: dict[str, Array], table: Table, usable: Array, h: Array) -> dict[str, float]:
    log_k = float(values[1] + h[usable].mean())
    found = {"curvature": float(values[0])}
    for exponent, (name, _) in zip(values[2:], x.items(), strict=True):
        found["p" if name == "N" else "q"] = float(exponent)
        log_k -= float(exponent) * float(np.log(table.columns[name][usable]).mean())
    return {"k": float(np.exp(log_k)), **found}


def _intervals(
    rows: tuple[Array, Array, Array], x: dict[str, Array], num_cells: int, bootstrap: int, seed: int
) -> dict[str, tuple[float, float]]:
    if num_cells < 4 or bootstrap < 1:
        return {}
    random, index = np.random.default_rng(seed), rows[0]
    members = [np.flatnonzero(index == c) for c in range(num_cells)]
    draws = []
    for _ in range(bootstrap):
        picked = random.integers(num_cells, size=num_cells)
        take = np.concatenate([members[c] for c in picked])
        label = np.repeat(np.arange(num_cells), [len(members[c]) for c in picked])
        solved = _solve(label, rows[1][take], rows[2][take], {v: values[take] for v, values in x.items()})
        if solved is not None:
            draws.append(solved[2:])
    if len(draws) < bootstrap / 2 or not x:
        return {}
    ends = np.quantile(draws, [0.025, 0.975], axis=0).T
    return {"p" if v == "N" else "q": (float(a), float(b)) for v, (a, b) in zip(x, ends, strict=True)}


def _at_the_edge(table: Table, cell: Array, h: Array, names: Array) -> list[str]:
    edge = 0
    for c in names:
        mine = np.flatnonzero(cell == c)
        best = mine[np.argmin(table.loss[mine])]
        edge += h[best] in (h[mine].min(), h[mine].max())
    return [f"the best value lies at the end of the sweep in {edge} of {len(names)} cells"] if edge else []
