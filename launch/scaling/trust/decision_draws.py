"""What a decision is drawn from: resampled rows, laws that hold-out cannot tell apart, and fits without some runs.

A law's own bootstrap knows only the scatter of the runs about that law. Where runs of one size, length, budget or trunk
share an error, each replicate gets such errors too. Each of the laws that hold-out cannot tell apart gives as many
replicates as its share of the resampled choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted
from launch.scaling.table.clusters import clusters, in_order
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import cluster_weights, refit, residual_sd, row_weights, weighted_bootstrap
from launch.scaling.trust.obstacles import obstacles
from launch.scaling.trust.replicates import DecisionDraws, LeftOut, Replicates
from launch.scaling.trust.shared_errors import SharedError, shared_errors

REPLICATES = 400
CLUSTERED = 0.05  # p value below which replicates get the errors that a group shares
FEWEST = 100  # replicates of a law, however small its share
FEW = 10  # degrees of freedom below which rows are too few to be resampled: their scatter is drawn instead
MOST_GROUPS, BLOCKS = 20, 10  # left out one by one; more than so many are left out in so many blocks of neighbours


def draw_decision(
    fits: Mapping[str, tuple[Fitted, float]],
    table: Table,
    *,
    cluster: str | None = None,
    seed: int = 0,
    num: int = REPLICATES,
) -> DecisionDraws:
    """Draw for laws that were fitted to `table`, each with its share of the draws; the first is the one to act on.

    `cluster` names groups that the user wants drawn whole; without it the residuals of the first law decide.
    """
    (first, _), shared = next(iter(fits.values())), None
    groups, why = None, "no group of runs shares an error"
    by, sd = "row", 0.0
    if cluster is not None:
        by, groups, why = cluster, clusters(table, cluster), "as asked"
    else:
        shared = demanded(first, table)
        if shared is not None:
            by, sd, why = shared.by, shared.sd, f"runs of one {shared.by} share an error of {shared.sd:.2%}"
    laws = []
    for fitted, share in fits.values():
        draws = _draws(fitted, max(FEWEST, round(share * num)), seed, shared, groups)
        laws.append(Replicates(fitted.law, share, fitted.centre, fitted.theta, draws))
    return DecisionDraws(tuple(laws), tuple(_left_out(first, table)), by, sd, why)


def demanded(fitted: Fitted, table: Table) -> SharedError | None:
    """Return the shared error that the residuals speak for most, or None."""
    found = [e for e in shared_errors(fitted, table) if e.p_value < CLUSTERED]
    return min(found, key=lambda e: e.p_value) if found else None


def _draws(fitted: Fitted, num: int, seed: int, shared: SharedError | None, groups: NDArray[np.str_] | None) -> Array:
    rows, random = len(fitted.loss), np.random.default_rng(seed)
    if groups is not None:
        draws = weighted_bootstrap(fitted, cluster_weights(groups, num, seed)).draws
        assert draws is not None
        return draws
    errors = None if shared is None else shared.draw(num, random)
    freedom = rows - fitted.num_params
    if freedom >= FEW:
        loss = None if errors is None else fitted.loss * np.exp(errors)
        return refit(fitted, loss=loss, weights=row_weights(rows, num, seed))
    sd = residual_sd(fitted) if shared is None else shared.within**0.5
    sds = sd * np.sqrt(freedom / random.chisquare(freedom, num))
    own = sds[:, None] * random.standard_normal((num, rows))
    return refit(fitted, loss=fitted.predict(fitted.columns) * np.exp(own if errors is None else errors + own))


def _left_out(fitted: Fitted, table: Table) -> Iterator[LeftOut]:
    """Yield the fits without one size each, and without one budget each (one length, where budgets are not shared)."""
    for by in ("N", _second(table)):
        names = _blocks(table, by)
        labels = in_order(names)
        if len(labels) < 2:
            continue
        masks = np.array([names != label for label in labels])
        reasons = [obstacles(fitted.law, table.select(mask).columns) for mask in masks]
        thetas = refit(fitted, weights=masks.astype(float))
        for label, theta, why in zip(labels, thetas, reasons, strict=True):
            yield LeftOut(by, label, None if why else theta, why[0] if why else "")


def _second(table: Table) -> str:
    budgets = len(set(clusters(table, "C"))) if table.has("C") else len(table)
    return "C" if 2 * budgets <= len(table) or len(set(clusters(table, "D"))) > budgets else "D"


def _blocks(table: Table, by: str) -> NDArray[np.str_]:
    names = clusters(table, by)
    labels = in_order(names)
    if len(labels) <= MOST_GROUPS:
        return names
    of = {label: k * BLOCKS // len(labels) for k, label in enumerate(labels)}
    ends = {b: [label for label in labels if of[label] == b] for b in range(BLOCKS)}
    return np.array([f"{ends[of[n]][0]} to {ends[of[n]][-1]}" for n in names])
