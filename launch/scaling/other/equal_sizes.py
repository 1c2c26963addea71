"""Families of models at equal size: which is best there, by how much, and how far apart two seeds of one run lie.

Runs are of equal size where their bodies agree within `SAME_BODY` and their training tokens within `SAME_TOKENS`. The
noise is that of one run: the standard deviation of the loss over seeds, pooled over all settings with several.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array, near_groups
from launch.scaling.table.families import families_of
from launch.scaling.table.table import Table

SAME_BODY, SAME_TOKENS = 0.06, 0.01  # of the logarithm
CLEAR = 2.0  # standard errors by which families differ that are told apart


@dataclass(frozen=True)
class Standing:
    """One family at one size: its mean loss over seeds, how far behind the best it is, and that distance's error."""

    family: str
    loss: float  # nats per token
    runs: int
    behind: float  # nats, 0 for the best
    error: float  # standard error of `behind` by the noise of seeds; NaN where no setting has two

    @property
    def clear(self) -> bool:
        """Whether it is behind by more than seeds explain; False where their noise is not known."""
        return self.behind > CLEAR * self.error


@dataclass(frozen=True)
class EqualSize:
    """All families that have runs of one size, best first. `parameters` is the body's mean."""

    parameters: float
    tokens: float
    standings: tuple[Standing, ...]

    def of(self, family: str) -> Standing | None:
        """Return how a family stands at this size, None where it has no run."""
        return next((s for s in self.standings if s.family == family), None)


@dataclass(frozen=True)
class EqualSizes:
    """The comparison at every size, smallest first. `noise`: nats, NaN where no setting has two seeds."""

    families: tuple[str, ...]  # the reference first
    sizes: tuple[EqualSize, ...]
    noise: float
    freedom: int  # of the noise: runs of settings with several seeds, less their number

    @property
    def complete(self) -> tuple[EqualSize, ...]:
        """The sizes at which every family has a run."""
        return tuple(size for size in self.sizes if len(size.standings) == len(self.families))


def equal_sizes(table: Table) -> EqualSizes:
    """Compare the families of a table with N and D wherever two of them have runs of one size."""
    groups = table.labels["group"]
    size = _sizes(table)
    noise, freedom = seed_noise(table.loss, _settings(groups, size))
    found = []
    for k in range(int(size.max()) + 1):
        mine = size == k
        if len(set(groups[mine].tolist())) > 1:
            body = float(np.mean(_bodies(table)[mine]))
            found.append(
                EqualSize(body, float(np.mean(table.D[mine])), _standings(groups[mine], table.loss[mine], noise))
            )
    return EqualSizes(families_of(table), tuple(sorted(found, key=lambda s: s.parameters)), noise, freedom)


def seed_noise(loss: Array, setting: NDArray[np.int64]) -> tuple[float, int]:
    """Return the pooled standard deviation of losses (n,) within settings (n,), and its degrees of freedom.

    NaN and 0 where no setting has two runs.
    """
    number = np.bincount(setting)
    means = np.bincount(setting, loss) / np.maximum(number, 1)
    freedom = int(np.maximum(number - 1, 0).sum())
    if freedom == 0:
        return math.nan, 0
    return math.sqrt(float(((loss - means[setting]) ** 2).sum()) / freedom), freedom


def _standings(groups: NDArray[np.str_], loss: Array, noise: float) -> tuple[Standing, ...]:
    means = {
        str(name): (float(loss[groups == name].mean()), int((groups == name).sum())) for name in set(groups.tolist())
    }
    order = sorted(means, key=lambda name: means[name][0])
    best, runs = means[order[0]]
    return tuple(
        Standing(name, means[name][0], means[name][1], means[name][0] - best,
                 0.0 if name == order[0] else noise * math.sqrt(1 / runs + 1 / means[name][1]))
        for name in order
    )  # fmt: skip


def _bodies(table: Table) -> Array:
    """Return the parameters by which runs are of equal size: the body's where the table counts them, else N."""
    return np.asarray(table.conventions.get("body", table.N), float)


def _sizes(table: Table) -> NDArray[np.int64]:
    """Number the sizes of the runs (n,)."""
    tokens = near_groups(np.log(table.D), SAME_TOKENS) if table.has("D") else np.zeros(len(table), np.int64)
    bodies = near_groups(np.log(_bodies(table)), SAME_BODY)
    return _numbered(bodies, tokens)


def _settings(groups: NDArray[np.str_], size: NDArray[np.int64]) -> NDArray[np.int64]:
    return _numbered(np.unique(groups, return_inverse=True)[1].ravel(), size)


def _numbered(*keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the combinations of several keys (n,)."""
    return np.asarray(np.unique(np.stack(keys), axis=1, return_inverse=True)[1]).ravel()
