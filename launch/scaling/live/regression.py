"""From the curves of finished runs to that of another size and length: one linear regression for each knot.

At a matched share u of the run, log L(u) = a(u) + b(u) N^-p + c(u) D^-q, and the last evaluation is one column more. So
every knot has a law of its own with a floor, and no form is assumed over u: that comes from the runs. Normalised
curves of one schedule are known to fall on each other (Qiu et al. 2025, arXiv 2507.02119). A regression at each knot
follows what is left of their differences too.

All columns share one design, so their errors have one covariance over u, which the finished runs show (Anderson, An
Introduction to Multivariate Statistical Analysis, chapter 8). The powers are the same for all columns. Runs that are
left out weigh them (PRESS), and what the weighted designs disagree on widens the band: it grows with the distance from
the finished runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.live.runs import Finished, Kind
from trainer.contract.errors import UserError

LEAST_FREE = 2  # runs beyond the coefficients: fewer show nothing of how runs differ
FAR = 4.0  # times beyond the sizes and lengths of the finished runs
SAME = 1.02  # ratio below which two sizes or lengths are one
# What the residuals of few runs are completed with, as so many further runs (an inverse Wishart prior); by leaving
# ladders out, see docs/benchmarks/live-law.md.
PRIOR_RUNS, LEAST_SD, LASTING, MEMORY = 15.0, 2e-3, 0.1, 1.5
# Degrees of freedom that it adds: fewer than runs, for the sizes at the knots come from the same residuals.
PRIOR_FREEDOM = 10.0
POWERS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75)  # p and q; 0 stands for the logarithm
Terms = tuple[tuple[str, float], ...]  # factors N and D with their powers


@dataclass(frozen=True)
class Foretold:
    """Columns (K + 1,) of the wanted run and the covariance of its deviations; `freedom` degrees of freedom."""

    mean: Array
    covariance: Array
    freedom: float


@dataclass(frozen=True)
class _Fit:
    """One design: what it foretells (K + 1,), the covariance of runs (K + 1, K + 1), how well it foretells others."""

    mean: Array
    shown: Array
    free: int
    leverage: float
    press: float


def foretell(
    runs: Sequence[Finished], columns: Array, errors: Array, wanted: Kind, at: Array, *, shared: bool = False
) -> Foretold:
    """Regress `columns` (n, K + 1) on size and length, and predict those of the wanted run.

    `errors` (K + 1,) is the mean variance of a column by the noise of batches; `at` (K + 1,) the shares of the run.
    `shared`: those of its seed read the same batches. Then runs of one seed share a level, and only the rest is noise.
    Raises `UserError` for too few runs and for
    a run too far beyond them.
    """
    kinds = [run.kind for run in runs]
    beyond = _beyond(kinds, wanted)
    orders = sorted({kind.seed for kind in kinds} - {wanted.seed}) if shared else []
    fits = [fit for terms in _designs(kinds) if (fit := _fit(kinds, columns, wanted, terms, orders)) is not None]
    if not fits:
        varied = [name for name in "ND" if _ratio([getattr(kind, name) for kind in kinds]) > SAME]
        raise UserError(
            f"{len(kinds)} finished {'run is' if len(kinds) == 1 else 'runs are'} like {wanted.name}, and its curve "
            f"needs {1 + len(varied) + LEAST_FREE} or more, in which sizes and lengths do not only vary together: "
            "finish more cells of its ladder first"
        )
    best = min(fits, key=lambda fit: fit.press)
    weights = np.array([(best.press / fit.press) ** (len(runs) / 2) for fit in fits])
    weights /= weights.sum()
    means = np.array([fit.mean for fit in fits])
    mean = weights @ means
    apart = (means - mean).T * weights @ (means - mean)
    spread = _completed(best.shown, best.free, errors, at)
    leverage = float(weights @ [fit.leverage for fit in fits])
    own = _own_noise(kinds, wanted, leverage, shared=shared) * np.diag(errors)
    within = (1 + leverage) * spread + apart
    covariance = within * beyond**2 + own
    # How errors beyond the runs hang together over u is not known from them: the beginning says less of the end.
    covariance[-1, -1] += (beyond**2 - 1) * within[-1, -1]
    return Foretold(mean, covariance, best.free + PRIOR_FREEDOM)


def _own_noise(kinds: list[Kind], wanted: Kind, leverage: float, *, shared: bool) -> float:
    """Return how much of the noise of one run's knots is in the forecast of another's.

    Runs of one seed read the same batches, so what they share of it is no smaller in their mean than in one. Where the
    wanted run reads them too and is as long, it is in its own knots as well; with another length it is in others.
    """
    if not shared:
        return max(leverage, 1 / len({kind.seed for kind in kinds}))
    return leverage if {kind.steps for kind in kinds} == {wanted.steps} else 1 + leverage


def _designs(kinds: list[Kind]) -> list[Terms]:
    """Return the designs for what varies: a power of each."""
    varied = [name for name in "ND" if _ratio([getattr(kind, name) for kind in kinds]) > SAME]
    return [tuple(zip(varied, powers, strict=True)) for powers in product(POWERS, repeat=len(varied))]


def _fit(kinds: list[Kind], columns: Array, wanted: Kind, terms: Terms, orders: list[int]) -> _Fit | None:
    """Fit one design; None where the runs do not identify it, or one of them alone says a coefficient."""
    every = _design([*kinds, wanted], terms, orders)
    X, x = every[:-1], every[-1]
    free = len(kinds) - X.shape[1]
    if free < LEAST_FREE or np.linalg.matrix_rank(X) < X.shape[1]:
        return None
    inverse = np.linalg.inv(X.T @ X)
    hat = np.einsum("ip,pq,iq->i", X, inverse, X)
    if hat.max() > 1 - 1e-9:
        return None
    coefficients = inverse @ X.T @ columns
    residuals = columns - X @ coefficients
    press = float(((residuals / (1 - hat)[:, None]) ** 2).sum())
    # E r r' = (1 - h) S: so runs at the edge, where a law that is wrong shows, count as much as others.
    shown = (residuals / (1 - hat)[:, None]).T @ residuals / len(kinds)
    return _Fit(x @ coefficients, shown, free, float(x @ inverse @ x), press)


def _design(kinds: Sequence[Kind], terms: Terms, orders: list[int]) -> Array:
    """Return ones, one for the runs of each other order of data, and the standardised powers of N and D (n, p)."""
    columns = [np.ones(len(kinds)), *(np.array([kind.seed == order for kind in kinds], float) for order in orders)]
    for name, power in terms:
        logs = np.log([getattr(kind, name) for kind in kinds])
        logs -= logs.mean()
        value = np.exp(-power * logs) if power else -logs
        columns.append((value - value.mean()) / value.std())
    return np.stack(columns, axis=1)


def _beyond(kinds: list[Kind], wanted: Kind) -> float:
    """Return how many times the wanted run is larger or longer than all finished ones (or smaller); at least 1.

    Errors are taken to grow as much. Raises `UserError` beyond `FAR`, or where the runs do not vary in what it differs.
    """
    most = 1.0
    for name, what in (("N", "parameters of the body"), ("D", "tokens")):
        values, value = [getattr(kind, name) for kind in kinds], getattr(wanted, name)
        if not values:
            continue
        low, high = min(values), max(values)
        beyond = max(value / high, low / value)
        if beyond > SAME and high / low < SAME:
            raise UserError(
                f"{wanted.name} has {value:,.0f} {what}, and all {len(values)} finished runs like it have {low:,.0f}: "
                "finish runs of other sizes or lengths first"
            )
        if beyond > FAR:
            raise UserError(
                f"{wanted.name} has {value:,.0f} {what}, {beyond:.3g} times beyond the finished runs ({low:,.0f} to "
                f"{high:,.0f}); a curve reaches {FAR:g} times: finish a run between"
            )
        most = max(most, beyond)
    return most


def _ratio(values: list[float]) -> float:
    return max(values) / min(values)


def _completed(residuals: Array, free: int, errors: Array, at: Array) -> Array:
    """Return the covariance of deviations: that of the residuals, completed by a prior worth `PRIOR_RUNS` runs.

    Few runs show few ways to deviate. The prior has the residuals' own size at each knot, smoothed, and says how they
    hang together over u: a share lasts for the whole run, the rest is forgotten as log u goes on.
    """
    shown = residuals - np.diag(errors)
    near = np.exp(-0.5 * (np.arange(len(at))[:, None] - np.arange(len(at))) ** 2 / 2.0**2)
    sizes = near @ np.maximum(np.diag(shown), 0) / near.sum(1)
    sd = np.sqrt(np.maximum(sizes, LEAST_SD**2))
    log_u = np.log(np.maximum(at, at[at > 0].min()))
    kernel = LASTING + (1 - LASTING) * np.exp(-np.abs(log_u[:, None] - log_u) / MEMORY)
    prior = kernel * sd[:, None] * sd
    mixed = (PRIOR_RUNS * prior + free * shown) / (PRIOR_RUNS + free)
    values, vectors = np.linalg.eigh(mixed)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def with_final(found: Foretold, mean: float, sd: float) -> Foretold:
    """Return the forecast once another law says the last column: the curve moves as far as it goes with that."""
    variance = float(found.covariance[-1, -1])
    gain = found.covariance[:, -1] / variance
    covariance = found.covariance + np.outer(gain, gain) * (sd**2 - variance)
    return Foretold(found.mean + gain * (mean - found.mean[-1]), covariance, found.freedom)
