"""The next cells: which runs cut the uncertainty about the target most for each FLOP, given those that exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from launch.scaling.arrays import Array
from launch.show.text import count, flops_text
from launch.sweep.design.design import Cell, Question
from trainer.contract.errors import UserError

RATIOS = np.geomspace(1.25, 320, 17)  # tokens per parameter that are tried
NUM_SIZES = 25
VAGUE_PRIOR = 1e-9  # of the diagonal: keeps the information invertible where runs say nothing

Goal = Literal["allocation", "loss"]


@dataclass(frozen=True)
class Addition:
    """One proposed cell and the standard deviation at the target once it is run."""

    cell: Cell
    sd_before: float
    sd_after: float


def add_cells(
    N: Array,
    D: Array,
    num: int,
    question: Question,
    *,
    smallest: float,
    largest: float,
    most_expensive: float,
    goal: Goal = "allocation",
) -> list[Addition]:
    """Choose `num` cells one after another, each cutting the variance of the goal most per FLOP.

    Variance is that of ln N* (`allocation`) or of the loss at the target; no cell costs more than `most_expensive`, and
    none is shorter than the shortest run: the law is not known to hold there, and by it the shortest run would always
    tell most per FLOP. Raises `UserError` where fewer cells are left. The update of a covariance by one run is of rank
    one (Sherman & Morrison 1950).
    """
    shortest = float(np.min(D))
    candidates = _candidates(smallest, largest, most_expensive, shortest)
    if len(candidates) < num:
        raise UserError(
            f"of the runs of {count(smallest)} to {count(largest)} parameters that were tried, {len(candidates)} cost "
            f"at most {flops_text(most_expensive)} FLOPs and are no shorter than the shortest of the table "
            f"({count(shortest)} tokens), not {num}: give more --flops, or a smaller --smallest"
        )
    sizes, tokens = np.array([c.N for c in candidates]), np.array([c.D for c in candidates])
    information = question.information(N, D).sum(axis=0)
    prior = VAGUE_PRIOR * np.diag(np.maximum(np.diag(information), 1e-12))
    covariance = np.linalg.inv(information + prior)
    gradient = question.gradients()[0 if goal == "allocation" else 1]
    each = question.information(sizes, tokens)
    rows = np.stack([_row(matrix) for matrix in each])
    costs = np.array([c.cost for c in candidates])
    chosen: list[Addition] = []
    taken: list[int] = []
    for _ in range(num):
        before = float(gradient @ covariance @ gradient)
        projected = rows @ covariance
        gain = (projected @ gradient) ** 2 / (1 + np.einsum("cp,cp->c", projected, rows))
        gain[taken] = 0.0  # the same run again has the same loss
        best = int(np.argmax(gain / costs))  # variance cut per FLOP
        taken.append(best)
        row = projected[best]
        covariance = covariance - np.outer(row, row) / (1 + row @ rows[best])
        after = float(gradient @ covariance @ gradient)
        chosen.append(Addition(candidates[best], before**0.5, max(after, 0.0) ** 0.5))
    return chosen


def _row(information: Array) -> Array:
    """Return the vector whose outer product is a rank-one information."""
    values, vectors = np.linalg.eigh(information)
    return np.asarray(vectors[:, -1] * np.sqrt(max(values[-1], 0.0)))


def _candidates(smallest: float, largest: float, most_expensive: float, shortest: float) -> list[Cell]:
    cells = [
        Cell(float(n), float(n * r), float(6 * n * n * r))
        for n in np.geomspace(smallest, largest, NUM_SIZES)
        for r in RATIOS
    ]
    return [c for c in cells if c.cost <= most_expensive and shortest <= c.D]
