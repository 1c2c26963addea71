"""The trials of a setting in a table: cells of runs that differ in settings alone, and which settings vary in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array
from launch.scaling.other.bowl import Trials
from launch.scaling.table.table import Table
from trainer.contract.errors import UserError

VARIES = 0.1  # standard deviation of a logarithm from which a size varies


@dataclass(frozen=True)
class Sweeps:
    """Trials with the names of their settings and features, and by how much their logarithms were shifted."""

    trials: Trials
    settings: tuple[str, ...]
    features: tuple[str, ...]
    z_mean: Array
    x_mean: Array
    fixed: str


def sweeps_of(table: Table, column: str) -> Sweeps:
    """Take both settings where both vary in cells of one N, D and U, else the one that is asked for (`column`).

    Raises `UserError` where no cell has three values of it.
    """
    other = "batch" if column == "lr" else "lr"
    known = other in table.columns and bool(np.isfinite(table.columns[other]).any())
    if known:
        both = table.select(np.isfinite(table.columns[other]))
        cell = _cells(both, ("N", "D", "U"))
        if _joint_cells(both, cell, column, other):
            return _made(both, cell, (column, other), ("N", "D"), "")
    cell = _cells(table, ("N", "D", "U", other))
    if not (_distinct(np.log(table.columns[column]), cell) >= 3).any():
        raise UserError(f"no cell has three values of {column}: sweep it at several N and D")
    features = ["N", "D"]
    if known and np.isfinite(table.columns[other]).all() and _goes_its_own_way(table, other):
        features.append(other)
    fixed = f"at fixed {other}" if known else f"at the {other} of these runs, which the table does not give"
    return _made(table, cell, (column,), tuple(features), fixed)


def _made(
    table: Table, cell: NDArray[np.int64], settings: tuple[str, ...], features: tuple[str, ...], fixed: str
) -> Sweeps:
    features = tuple(v for v in features if np.std(np.log(table.columns[v])) > VARIES)
    z = np.log(np.stack([table.columns[s] for s in settings], axis=1))
    x = np.log(np.stack([table.columns[v] for v in features], axis=1)) if features else np.empty((len(table), 0))
    z_mean, x_mean = z.mean(axis=0), x.mean(axis=0)
    ones = np.ones((len(table), 1))
    trials = Trials(z - z_mean, np.concatenate([ones, x - x_mean], axis=1), np.log(table.loss), cell)
    return Sweeps(trials, settings, features, z_mean, x_mean, fixed)


def _cells(table: Table, names: tuple[str, ...]) -> NDArray[np.int64]:
    # Each column is numbered first: an empty cell, NaN, is then one value of it, and not a new one in every row.
    keys = [
        np.unique(np.round(np.log(table.columns[c]), 6), return_inverse=True)[1].ravel()
        for c in names
        if c in table.columns
    ]
    return np.asarray(np.unique(np.stack(keys), axis=1, return_inverse=True)[1]).ravel()


def _distinct(values: Array, cell: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many different values each cell has (G,)."""
    numbered = np.unique(np.round(values, 6), return_inverse=True)[1].ravel()
    pairs = np.unique(np.stack([cell, numbered]), axis=1)
    return np.bincount(pairs[0], minlength=int(cell.max()) + 1)


def _joint_cells(table: Table, cell: NDArray[np.int64], column: str, other: str) -> bool:
    """Return whether a bowl in both can be told: six trials or more, three values of each, in a third of the cells."""
    h, g = np.log(table.columns[column]), np.log(table.columns[other])
    swept = (_distinct(h, cell) >= 3) | (_distinct(g, cell) >= 3)
    both = (_distinct(h, cell) >= 3) & (_distinct(g, cell) >= 3) & (_distinct(h + np.pi * g, cell) >= 6)
    return bool(both.any()) and int(both.sum()) * 3 >= int(swept.sum())


def _goes_its_own_way(table: Table, other: str) -> bool:
    """Return whether runs of one N and D have several values of the other setting: only then has it a power of its own.

    Batches that grow with D and are rounded to powers of two would else take a part of the power of D.
    """
    several = _distinct(np.log(table.columns[other]), _cells(table, ("N", "D", "U"))) >= 2
    return bool(several.sum() * 2 > len(several))


def at_the_edge(trials: Trials) -> list[str]:
    """Count the cells whose best trial is at an end of those tried; empty where there are none."""
    edge, swept = 0, 0
    for c in range(int(trials.cell.max()) + 1):
        mine = np.flatnonzero(trials.cell == c)
        z = trials.z[mine]
        varied = np.ptp(z, axis=0) > 0
        if len(mine) < 3 or not varied.any():
            continue
        best = z[np.argmin(trials.log_loss[mine])]
        swept += 1
        edge += bool((varied & ((best == z.min(axis=0)) | (best == z.max(axis=0)))).any())
    return [f"the best value lies at the end of the sweep in {edge} of {swept} cells"] if edge else []
