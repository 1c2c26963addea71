"""Bootstraps of a fit: by row, by cluster, and from the residuals when rows are few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted
from launch.scaling.fit.large import first_step, is_large
from launch.scaling.fit.newton import MAX_STEPS, minimise
from launch.scaling.fit.problem import Problem
from trainer.contract.errors import UserError

BOOTSTRAP, SEED = 1000, 42  # replicates of a fit that is asked for, and what they are drawn with
FEWEST_REPLICATES = 40  # the first that leaves one outside each end of a 95 % interval
BATCH = 200  # replicates solved at once: their Jacobians stay in the cache
FADED = 1e-3  # of the lowest loss: a smaller floor has no gradient left that could bring it back


def check_replicates(num: int, seed: int) -> None:
    """Raise `UserError` for so few replicates that they have no 95 % interval (0: none is wanted), or no seed."""
    if num and num < FEWEST_REPLICATES:
        raise UserError(
            f"{num} bootstrap replicates have no 95 % interval: ask for {FEWEST_REPLICATES} or more (1000 is usual), "
            "or for 0, which draws none"
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"the seed {seed} of the bootstrap is not between 0 and 2^32 - 1")


def row_weights(num_rows: int, num: int, seed: int) -> Array:
    """Return how often each row is drawn in each replicate (num, n).

    The legacy generator is used on purpose: with seed 42 it draws the samples of the published intervals of
    Besiroglu et al. 2024.
    """
    random = np.random.RandomState(seed)
    drawn = (random.choice(num_rows, size=num_rows, replace=True) for _ in range(num))
    return np.array([np.bincount(rows, minlength=num_rows).astype(np.uint16) for rows in drawn])


def cluster_weights(clusters: NDArray[np.str_], num: int, seed: int) -> Array:
    """Return row weights (num, n) when whole clusters (a trunk, a size, a budget) are drawn with replacement."""
    _, index = np.unique(clusters, return_inverse=True)
    num_clusters = int(index.max()) + 1
    drawn = np.random.RandomState(seed).randint(num_clusters, size=(num, num_clusters))
    return _counts(drawn, num_clusters)[:, index]


def _counts(drawn: NDArray[np.int64], size: int) -> Array:
    counts = np.zeros((len(drawn), size))
    np.add.at(counts, (np.arange(len(drawn))[:, None], drawn), 1.0)
    return counts


def weighted_bootstrap(fitted: Fitted, weights: Array) -> Fitted:
    """Refit with each row of `weights` (num, n), from the optimum of the whole table."""
    return fitted.with_draws(refit(fitted, weights=weights))


def refit(
    fitted: Fitted, *, loss: Array | None = None, weights: Array | None = None, max_steps: int = MAX_STEPS
) -> Array:
    """Return the best parameters (R, p) for other losses (R, n), other weights (R, n), or both."""
    given = loss if loss is not None else weights
    assert given is not None, "nothing else to fit"
    draws = []
    for first in range(0, len(given), BATCH):
        part = slice(first, first + BATCH)
        losses, counts = (None if v is None else v[part] for v in (loss, weights))
        draws.append(_refit(fitted, fitted.problem(loss=losses, weights=counts), max_steps))
    return np.concatenate(draws)


def residual_sd(fitted: Fitted, sem: Array | None = None) -> float:
    """Return the standard deviation of log loss about the law, with n - p degrees of freedom.

    Not below the standard error of the evaluation where that is known. NaN when no degree of freedom is left.
    """
    freedom = len(fitted.loss) - fitted.num_params
    if freedom < 1:
        return float("nan")
    variance = float(np.sum(fitted.residuals**2)) / freedom
    if sem is not None and np.isfinite(sem).all():
        variance = max(variance, float(np.mean((sem / fitted.loss) ** 2)))
    return float(variance**0.5)


def parametric_bootstrap(fitted: Fitted, num: int, seed: int, sd: float) -> tuple[Fitted, Array]:
    """Refit to simulated losses; return the fit and the standard deviation (num,) of each replicate.

    The variance is drawn from its scaled inverse chi-squared distribution, so that intervals widen like
    Student's t when there are few rows: resampling six rows would not.
    """
    random = np.random.default_rng(seed)
    freedom = len(fitted.loss) - fitted.num_params
    sds = sd * np.sqrt(freedom / random.chisquare(freedom, num))
    centre = np.log(fitted.predict(fitted.columns))
    losses = np.exp(centre + sds[:, None] * random.standard_normal((num, len(fitted.loss))))
    return replace(fitted, draws=refit(fitted, loss=losses)), sds


def _refit(fitted: Fitted, problem: Problem, max_steps: int) -> Array:
    """Return the best parameters (num, p) of each of `problem`'s replicates, from the optimum of the whole table.

    Where its floor has faded, also from the best start that has one: the floor of a replicate need not fade.
    """
    num = len(problem.loss if problem.loss.ndim == 2 else problem.counts)  # of replicates
    starts = (fitted.theta, *_with_a_floor(fitted))
    if len(starts) == 1 and max_steps and problem.replicated and is_large(problem):
        return first_step(problem, np.repeat(starts[0][None], num, axis=0))  # what `minimise` does, without objectives
    found = None
    for start in starts:
        tried = minimise(problem, np.repeat(start[None], num, axis=0), max_steps=max_steps)
        if found is None:
            found = tried
        else:
            theta = np.where((tried.objective < found.objective)[:, None], tried.theta, found.theta)
            found = replace(found, theta=theta, objective=np.minimum(tried.objective, found.objective))
    assert found is not None
    return found.theta


def _with_a_floor(fitted: Fitted) -> list[Array]:
    least = FADED * float(fitted.loss.min())
    if "E" not in fitted.law.params or fitted.values["E"] > least:
        return []
    whole = fitted.problem()
    starts = fitted.law.starts(whole.x, fitted.loss)
    floors = fitted.law.public(starts, fitted.centre)[:, fitted.law.params.index("E")]
    starts = starts[floors > least]
    if not len(starts):
        return []
    return [starts[int(np.argmin(minimise(whole, starts, max_steps=0).objective))]]
