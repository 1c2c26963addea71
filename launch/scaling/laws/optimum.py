"""From a law to a decision: how large a model, on how many tokens, at which loss, for a budget C = 6 N D."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, ClosedForm, Law

GOLDEN = (5**0.5 - 1) / 2
REACH = 12.0  # how far from the centre of the data ln N* is looked for: a factor of 160,000 either way
LOWEST_BUDGET, HIGHEST_BUDGET = np.log(1e8), np.log(1e32)
ABOUT = 2.0  # an exponent at a budget is taken between half and twice of it
SECTIONS = 60  # of the golden section: the bracket shrinks below 1e-11


def log_optimal_n(law: Law, theta: Array, centre: Centre, flops: float | Array) -> Array:
    """Return ln N* (B,) that minimises the loss over N at D = flops / (6 N)."""
    if isinstance(law, ClosedForm):
        return law.log_optimal_n(theta, centre, flops)
    return golden_section(
        lambda log_n: loss_at(law, theta, centre, log_n, flops),
        np.full(len(theta), centre.means["N"] + _half_way(centre, flops) - REACH),
        np.full(len(theta), centre.means["N"] + _half_way(centre, flops) + REACH),
    )


def _half_way(centre: Centre, flops: float | Array) -> Array:
    """Return how far ln N* moves from the centre of the data when N and D grow alike."""
    return np.asarray(0.5 * (np.log(flops / 6) - centre.means["N"] - centre.means["D"]))


def budget_exponents(law: Law, theta: Array, centre: Centre, flops: float) -> Array:
    """Return the local exponent a (B,) of N* ~ C^a at a budget; for Chinchilla's law it is beta / (alpha + beta)."""
    low, high = (log_optimal_n(law, theta, centre, flops * by) for by in (1 / ABOUT, ABOUT))
    return np.asarray((high - low) / (2 * np.log(ABOUT)))


def loss_at(law: Law, theta: Array, centre: Centre, log_n: Array, flops: float | Array) -> Array:
    """Return the log loss (B,) of each replicate at its own ln N (B,) on one budget."""
    log_d = np.log(flops / 6) - log_n
    x = {"N": log_n[:, None] - centre.means["N"], "D": log_d[:, None] - centre.means["D"]}
    return np.asarray(law.log_loss(theta, x)[0][:, 0])


def budget_for_loss(law: Law, theta: Array, centre: Centre, loss: Array) -> Array:
    """Return the smallest budget (B,) whose best allocation reaches each loss (B,); infinite where none does."""
    low, high = np.full(len(theta), LOWEST_BUDGET), np.full(len(theta), HIGHEST_BUDGET)
    wanted = np.log(loss)
    for _ in range(50):
        middle = (low + high) / 2
        log_n = log_optimal_n(law, theta, centre, np.exp(middle))
        too_small = loss_at(law, theta, centre, log_n, np.exp(middle)) > wanted
        low, high = np.where(too_small, middle, low), np.where(too_small, high, middle)
    return np.where(high > HIGHEST_BUDGET - 1e-6, np.inf, np.exp(high))


def wasted_share(law: Law, theta: Array, centre: Centre, log_n: float, flops: float) -> Array:
    """Return the share (B,) of a budget that is wasted by training N = exp(log_n) where replicate b is the truth.

    It is 1 - C'/C, where C' is the budget whose best allocation reaches the same loss.
    """
    reached = np.exp(loss_at(law, theta, centre, np.full(len(theta), log_n), flops))
    return np.clip(1 - budget_for_loss(law, theta, centre, reached) / flops, 0.0, 1.0)


def with_inference(law: Law, theta: Array, centre: Centre, flops: float, served_tokens: float) -> tuple[Array, Array]:
    """Return ln N and ln D that minimise the loss when C = 6 N D + 2 N served_tokens (Sardana et al. 2024).

    arXiv 2401.00448: serving a token costs 2 N FLOPs, so models that are much used should be smaller.
    """

    def tokens(log_n: Array) -> Array:
        return np.asarray(np.maximum(flops / 6 * np.exp(-log_n) - served_tokens / 3, 1.0))

    def loss(log_n: Array) -> Array:
        return loss_at(law, theta, centre, log_n, 6 * np.exp(log_n) * tokens(log_n))

    highest = np.log(flops / (2 * served_tokens)) - 1e-6
    middle = centre.means["N"] + _half_way(centre, flops)
    high = np.full(len(theta), min(float(highest), float(middle) + REACH))
    log_n = golden_section(loss, high - 2 * REACH, high)
    return log_n, np.log(tokens(log_n))


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
