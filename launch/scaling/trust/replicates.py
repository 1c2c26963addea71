"""The draws of a decision: replicates of each law, and fits without some runs. `decision_draws` makes them."""

from __future__ import annotations

from dataclasses import dataclass

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, Law


@dataclass(frozen=True)
class Replicates:
    """One law's part. `theta` (p,) is its optimum, `draws` (R, p) its replicates, `share` what they count together."""

    law: Law
    share: float
    centre: Centre
    theta: Array
    draws: Array


@dataclass(frozen=True)
class LeftOut:
    """The fit without one group of runs; `theta` is None where the others identify no law, for this `reason`."""

    by: str
    group: str
    theta: Array | None
    reason: str = ""


@dataclass(frozen=True)
class DecisionDraws:
    """Everything that the interval of a decision is made of. The first of `laws` is the one that was fitted."""

    laws: tuple[Replicates, ...]
    left_out: tuple[LeftOut, ...]
    cluster: str  # what shares an error: "row" where nothing does
    shared_sd: float  # of that error, in log loss
    cluster_why: str

    @property
    def point(self) -> Replicates:
        """Return the draws of the law that was fitted."""
        return self.laws[0]

    def known(self, by: str) -> list[LeftOut]:
        """Return the fits without one group of this kind that identify the law."""
        return [x for x in self.left_out if x.by == by and x.theta is not None]
