"""How far the norm of a run's matrices is expected to grow: what weight decay moves at once, and the loss hardly.

Curves of log norm less its first value, at a matched schedule, from the finished runs that recorded norms; one
regression on size and length for each knot, as for the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from launch.scaling.arrays import Array
from launch.scaling.live.limits import SIMULATED, share_of_each
from launch.scaling.live.regression import Foretold, foretell
from launch.scaling.live.runs import Finished, Kind
from launch.scaling.live.shapes import knots
from trainer.contract.errors import UserError
from trainer.contract.expected import BAND, ExpectedGrowth

# Two seeds of one run differ by so much of the way that the log norm has gone, and few runs may not show it.
LEAST_SHARE, LEAST_SD = 0.05, 0.002


def expected_growth(runs: Sequence[Finished], wanted: Kind) -> ExpectedGrowth | None:
    """Return what is expected of the norm's growth over `knots()`; None where too few runs recorded it."""
    with_norms = [run for run in runs if run.norms is not None]
    if not with_norms:
        return None
    since = max(float(run.norms[0][0]) / run.kind.steps for run in with_norms if run.norms is not None)
    columns = np.array([_growth(run, since) for run in with_norms])
    try:
        found = foretell(with_norms, columns, np.zeros(columns.shape[1]), wanted, knots())
    except UserError:  # too few of them: what the curve of the loss needs is said there
        return None
    gone = np.append(0.0, np.cumsum(np.abs(np.diff(found.mean))))
    sd = np.maximum(np.sqrt(np.diag(found.covariance)), np.maximum(LEAST_SHARE * gone, LEAST_SD))
    wide = float(student.ppf(0.975, found.freedom)) / BAND
    return ExpectedGrowth(found.mean.tolist(), (sd * wide).tolist(), since * wanted.steps, _limit(found, sd * wide))


def _growth(run: Finished, since: float) -> Array:
    assert run.norms is not None
    steps, log_norm = run.norms
    at = np.maximum(knots(), since) * run.kind.steps
    grown: Array = np.interp(at, steps, log_norm) - np.interp(since * run.kind.steps, steps, log_norm)
    return grown


def _limit(found: Foretold, sd: Array) -> float:
    """Return what the largest deviation of an undisturbed run reaches as often as one test of three may."""
    random = np.random.default_rng(0)
    tails = np.sqrt(found.freedom / random.chisquare(found.freedom, SIMULATED))
    draws = random.multivariate_normal(np.zeros(len(sd)), found.covariance, SIMULATED, method="eigh") * tails[:, None]
    # Where the deviations are below the least the draws are too small: then the tails alone say it.
    most = np.maximum(np.abs(draws / sd).max(1), np.abs(random.standard_normal(SIMULATED)) * tails)
    return float(np.quantile(most, 1 - share_of_each(3)))
