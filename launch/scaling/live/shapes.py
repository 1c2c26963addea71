"""A curve as a few numbers: log losses at knots over the share of the run that is done, linear in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.live.runs import Finished

KNOTS = 25
BEND = 1.6  # knots lie closer at the beginning, where a curve falls steeply: at (k / (K - 1)) ** BEND
STIFF = 1e-3  # weight of second differences, for stretches with few logged steps


@dataclass(frozen=True)
class Shape:
    """One curve. `at_knots` (K,) log losses, `errors` (K,) their variances over that of one batch, `left` (n,)."""

    at_knots: Array
    errors: Array
    weights: Array  # (n, K): of the knots at each logged step; rows sum to one
    left: Array  # what the knots leave of each logged step


def knots() -> Array:
    """Return the knots: shares of the run, rising from 0 to 1 (K,)."""
    return np.linspace(0, 1, KNOTS) ** BEND


def hats(share: Array, at: Array) -> Array:
    """Return the weights of linear interpolation between knots `at` (K,) for shares (n,): (n, K)."""
    right = np.clip(np.searchsorted(at, share, side="right"), 1, len(at) - 1)
    part = np.clip((share - at[right - 1]) / (at[right] - at[right - 1]), 0, 1)
    found = np.zeros((len(share), len(at)))
    rows = np.arange(len(share))
    found[rows, right - 1], found[rows, right] = 1 - part, part
    return found


def shape_of(run: Finished, known: Array | float = 0.0) -> Shape:
    """Fit the knots to a run's logged losses by least squares, less what is `known` of their batches (n,)."""
    weights = hats(run.steps / run.kind.steps, knots())
    bends = STIFF * np.diff(np.eye(KNOTS), 2, axis=0)
    inverse = np.linalg.inv(weights.T @ weights + bends.T @ bends * len(run.steps))
    gain = inverse @ weights.T
    at_knots = gain @ (run.log_loss - known)
    return Shape(at_knots, (gain**2).sum(1), weights, run.log_loss - weights @ at_knots)


def batch_noise(shapes: Sequence[Shape]) -> Array:
    """Return the standard deviation of one batch's log loss at each knot (K,), pooled over the runs.

    It is what the knots leave, so it counts what moves from step to step and nothing slower.
    """
    tops, counts = np.zeros(KNOTS), np.zeros(KNOTS)
    for shape in shapes:
        points = len(shape.left)
        tops += shape.weights.T @ shape.left**2 * points / max(points - KNOTS, 1)
        counts += shape.weights.sum(0)
    # Neighbours are taken together: a knot of the beginning has a point or two of each run.
    near = np.exp(-0.5 * (np.arange(KNOTS)[:, None] - np.arange(KNOTS)) ** 2 / 1.5**2)
    return np.asarray(np.sqrt(near @ tops / np.maximum(near @ counts, 1e-12)))
