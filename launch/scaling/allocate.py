"""From a law to a decision: how large a model, on how many tokens, at which loss, for a budget C = 6 N D."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from launch.scaling.laws.base import Centre, Law
from launch.scaling.laws.powers import PowerSum
from launch.scaling.objective import Array

GOLDEN = (5**0.5 - 1) / 2
REACH = 12.0  # how far from the centre of the data ln N* is looked for: a factor of 160,000 either way
SECTIONS = 60  # of the golden section: the bracket shrinks below 1e-11


def log_optimal_n(law: Law, theta: Array, centre: Centre, flops: float) -> Array:
    """Return ln N* (B,) that minimises the loss over N at D = flops / (6 N)."""
    if isinstance(law, PowerSum):
        return law.log_optimal_n(theta, centre, flops)
    return golden_section(
        lambda log_n: loss_at(law, theta, centre, log_n, flops),
        np.full(len(theta), centre.means["N"] + _half_way(centre, flops) - REACH),
        np.full(len(theta), centre.means["N"] + _half_way(centre, flops) + REACH),
    )


def _half_way(centre: Centre, flops: float) -> float:
    """Return how far ln N* moves from the centre of the data when N and D grow alike."""
    return 0.5 * (float(np.log(flops / 6)) - centre.means["N"] - centre.means["D"])


def loss_at(law: Law, theta: Array, centre: Centre, log_n: Array, flops: float) -> Array:
    """Return the log loss (B,) of each replicate at its own ln N (B,) on one budget."""
    x = {"N": log_n[:, None] - centre.means["N"], "D": np.log(flops / 6) - log_n[:, None] - centre.means["D"]}
    if "C" in law.variables:
        x["C"] = np.full_like(log_n[:, None], np.log(flops) - centre.means["C"])
    return np.asarray(law.log_loss(theta, x)[0][:, 0])


def golden_section(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Minimise a unimodal function of one variable for a whole batch at once (Kiefer 1953)."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(SECTIONS):
        lower = at_left < at_right
        high, low = np.where(lower, right, high), np.where(lower, low, left)
        new = np.where(lower, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_new = function(new)
        left, right = np.where(lower, new, right), np.where(lower, left, new)
        at_left, at_right = np.where(lower, at_new, at_right), np.where(lower, at_left, at_new)
    return (low + high) / 2
