"""What the residuals of a fit say against it: errors that runs share, and a form that the runs bend away from.

A certificate asks whether the runs determine the law's parameters. Its intervals, and those of a bootstrap by row, hold
what they say only where errors are independent and the law is right. Two F tests of the residuals ask that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from launch.scaling.fit.fit import Fitted
from launch.scaling.table.table import Table
from launch.scaling.trust.shared_errors import FEWEST, basis, cut, p_of_f, shared_errors, without

SIGNIFICANT = 1e-3


@dataclass(frozen=True)
class Doubt:
    """One test that failed. `size` is how large the effect is, as a share of the loss."""

    kind: str  # shared-error or bend
    by: str  # the column whose runs share an error; the law's variables for a bend
    size: float
    f_ratio: float
    p_value: float

    @property
    def sentence(self) -> str:
        """Say what is doubted, with its F and p."""
        test = f"(F = {self.f_ratio:.3g}, p = {self.p_value:.1g})"
        if self.kind == "bend":
            return (
                f"the runs bend away from the law in {self.by} by {self.size:.2%} of the loss {test}: larger runs may "
                "miss by more than the intervals; see which law held-out budgets choose"
            )
        return (
            f"runs of one {self.by} share an error of {self.size:.2%} of the loss {test}: intervals of parameters by "
            f"row are too narrow (--cluster {self.by} draws whole groups); those of decisions hold it"
        )

    def to_json(self) -> dict[str, object]:
        """Return all of it for `--json`."""
        return asdict(self) | {"sentence": self.sentence}


def doubts(fitted: Fitted, table: Table, cluster: str | None = None) -> tuple[Doubt, ...]:
    """Return what speaks against a fit to `table`. Errors shared within `cluster` are in its bootstrap already."""
    shared = [Doubt("shared-error", e.by, e.sd, e.f_ratio, e.p_value) for e in shared_errors(fitted, table, cluster)]
    return tuple(d for d in [*shared, *_bend(fitted)] if d.p_value < SIGNIFICANT)


def _bend(fitted: Fitted) -> Iterator[Doubt]:
    """Ask whether squares and products of the logarithms explain what the law leaves (cf. Tukey 1949).

    Both are taken without what a small change of the law's own parameters would do.
    """
    x = fitted.centre.logs(fitted.columns)
    varying = [v for v in fitted.law.variables if v in ("N", "D", "C") and np.std(x[v]) > 0]
    scaled = [(x[v] - x[v].mean()) / x[v].std() for v in varying]
    products = np.array([a * b for i, a in enumerate(scaled) for b in scaled[: i + 1]])
    if not varying:
        return
    own = basis(fitted.law.log_loss(fitted.theta[None], x)[1][0].T)
    residual = without(own, cut(fitted.residuals))
    trend = basis(without(own, products.T))
    freedom = trend.shape[1], len(residual) - own.shape[1] - trend.shape[1]
    if freedom[0] < 1 or freedom[1] < FEWEST:
        return
    explained = trend @ (trend.T @ residual)
    rest = float(np.sum((residual - explained) ** 2)) / freedom[1]
    high = float(np.sum(explained**2)) / freedom[0]
    size = float(np.sqrt(np.mean(explained**2)))
    yield Doubt("bend", " and ".join(varying), size, high / max(rest, 1e-300), p_of_f(high, rest, freedom))
