"""From tuned sizes to a law of the best value: weighted least squares of its logarithm on those of N, D and batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.tune.decide import Size
from launch.scaling.tune.search import Found
from trainer.config.recipe import RecipeLaw, SizeName, TunedSize
from trainer.contract.errors import UserError

VARIES = 1.1  # factor from which a size varies
ALIKE = 0.97  # correlation of two logarithms from which one power is all that can be told
SCATTER = 0.1  # of ln of the best value about any law, at least
OPEN = 0.05  # p-value below which the optimum is not log-linear
Z = 1.96  # standard errors of a 95 % interval


def fit_setting(
    sizes: Sequence[Size],
    sweep: str,
    features: Sequence[SizeName] = ("N", "D", "batch"),
    ruled: Mapping[SizeName, float] | None = None,
) -> RecipeLaw:
    """Fit the law of the best value to the sizes that are tuned, as powers of `features` where those vary.

    `ruled`: powers that a rule says; they are taken, not fitted. Raises UserError where fewer than two sizes are tuned,
    with what each lacks.
    """
    if lacking := what_lacks(sizes):
        raise UserError(f"sweep {sweep!r}: {lacking}. Raise --runs-per-size or --budget, or name other --sizes")
    ruled = ruled or {}
    points = [_point(size, one) for size in sizes if (one := size.found()) is not None]
    good = [point for point in points if not point.problem]
    at = {name: float(np.exp(np.mean([math.log(getattr(p, name)) for p in good]))) for name in ("N", "D", "batch")}
    names = _features(good, [name for name in features if name not in ruled])
    x = np.array([[1.0, *(math.log(getattr(p, n) / at[n]) for n in names)] for p in good])
    known = [sum(power * math.log(getattr(p, n) / at[n]) for n, power in ruled.items()) for p in good]
    y = np.log([p.best for p in good]) - np.array(known)
    errors = np.array([math.log(p.interval[1] / p.interval[0]) / (2 * Z) for p in good])
    solved, spread = _solve(x, y, errors)
    intervals = {n: (float(b - Z * s), float(b + Z * s)) for n, b, s in zip(names, solved[1:], spread[1:], strict=True)}
    return RecipeLaw(
        value=float(np.exp(solved[0])), N_at=at["N"], D_at=at["D"], batch_at=at["batch"],
        powers={**{n: float(b) for n, b in zip(names, solved[1:], strict=True)}, **ruled}, intervals=intervals,
        curvature=_curvature(x, y, errors, names), sizes=tuple(points),
    )  # fmt: skip


def what_lacks(sizes: Sequence[Size]) -> str:
    """Say why the sizes make no law; empty where they do."""
    tuned = [(size, size.found()) for size in sizes]
    good = sum(one is not None and not one.problem for _, one in tuned)
    if good >= 2:
        return ""
    named = [f"{size.name}: {_lacks(size, one)}" for size, one in tuned if one is None or one.problem]
    return f"{good} of {len(sizes)} sizes are tuned, and a law needs two. {'; '.join(named)}"


def _lacks(size: Size, one: Found | None) -> str:
    if one is not None:
        return one.problem
    return f"all {len(size.tried)} runs diverged" if size.tried else "no run has ended"


def _point(size: Size, one: Found) -> TunedSize:
    best = size.own * 2**one.x
    octaves = min(Z * one.error, 20.0)
    return TunedSize(
        N=size.N, D=size.D, batch=size.batch, best=best, interval=(best * 2**-octaves, best * 2**octaves),
        curvature=one.curvature, runs=len(size.tried), problem=one.problem,
    )  # fmt: skip


def _features(points: Sequence[TunedSize], possible: Sequence[SizeName]) -> list[SizeName]:
    """Return what the best value can be a power of: what varies, and not along with what was taken before."""
    taken: list[SizeName] = []
    for name in possible:
        values = np.log([getattr(p, name) for p in points])
        others = [np.log([getattr(p, n) for p in points]) for n in taken]
        alike = any(abs(np.corrcoef(values, other)[0, 1]) > ALIKE for other in others if np.ptp(values) > 0)
        if np.ptp(values) > math.log(VARIES) and not alike and len(points) > len(taken) + 1 + bool(taken):
            taken.append(name)
    return taken


def _solve(x: Array, y: Array, errors: Array) -> tuple[Array, Array]:
    """Return the coefficients and their standard errors, widened where points scatter more than they say."""
    weights = 1 / (errors**2 + SCATTER**2)
    covariance = np.linalg.inv((x * weights[:, None]).T @ x)
    solved = covariance @ (x.T @ (weights * y))
    free = len(y) - x.shape[1]
    scatter = float(weights @ (y - x @ solved) ** 2) / free if free else 1.0
    return solved, np.sqrt(np.diag(covariance) * max(1.0, scatter))


def _curvature(x: Array, y: Array, errors: Array, names: Sequence[str]) -> str:
    """Say whether a square of the first logarithm improves the law, by its standard error."""
    if not names:
        return "not testable: the sizes have one N and one D"
    if len(y) < x.shape[1] + 1:
        return f"not testable: {len(y)} sizes for {x.shape[1]} numbers; tune one more"
    weights = 1 / (errors**2 + SCATTER**2)
    columns = np.column_stack([x, x[:, 1] ** 2])
    covariance = np.linalg.inv((columns * weights[:, None]).T @ columns)
    bend, error = float((covariance @ (columns.T @ (weights * y)))[-1]), math.sqrt(covariance[-1, -1])
    p = math.erfc(abs(bend / error) / math.sqrt(2))
    said = f"of (ln {names[0]})^2: {bend:+.3f} +- {error:.3f}, p = {p:.2g}"
    return f"bent, so not log-linear: {said}" if p < OPEN else f"log-linear is not rejected: {said}"
