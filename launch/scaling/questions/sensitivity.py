"""What a decision rests on: the same question asked of every law that may hold, and with each group of runs left out.

A bootstrap knows only the scatter of the runs about one law. The spread over laws and over fits that miss a whole group
(a size, a budget) shows what it cannot: a wrong form, and a recipe that carries the fit alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre, Law
from launch.scaling.laws.optimum import log_optimal_n, loss_at
from launch.scaling.trust.replicates import DecisionDraws, LeftOut, Replicates

EXTREME = 700.0  # of ln N* and ln D*/N*: a law that nothing identifies may put them beyond any number


@dataclass(frozen=True)
class Choice:
    """The best run for a budget C = 6 N D according to one fit.

    `without` names the group, a value of `by`, that it did not see. Numbers are None where the runs that are left
    identify no law: `reason` says why. `share` is what a law counts in the decision.
    """

    law: str
    N: float | None
    tokens_per_parameter: float | None
    loss: float | None
    share: float | None = None
    by: str = ""
    without: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """Choices for one budget."""

    flops: float
    laws: tuple[Choice, ...]
    left_out: tuple[Choice, ...]

    def to_json(self) -> dict[str, object]:
        """Return all of it for `--json`."""
        return {
            "flops": self.flops,
            "laws": [asdict(c) for c in self.laws],
            "left_out": [asdict(c) for c in self.left_out],
            "spread": {name: {k: list(v) for k, v in ranges(c).items()} for name, c in self.sets() if known(c)},
        }

    def sets(self) -> list[tuple[str, Sequence[Choice]]]:
        """Return the choices of the laws, and those without one group of each kind."""
        kinds = dict.fromkeys(c.by for c in self.left_out)
        return [("laws", self.laws), *((f"without one {by}", [c for c in self.left_out if c.by == by]) for by in kinds)]


def known(choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices of fits that could be made."""
    return [c for c in choices if c.N is not None]


def ranges(choices: Sequence[Choice]) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest N, D/N and loss of the fits that could be made."""
    found = {}
    for name in ("N", "tokens_per_parameter", "loss"):
        values = [float(getattr(c, name)) for c in known(choices)]
        found[name] = (min(values), max(values))
    return found


def sensitivity(drawn: DecisionDraws, flops: float) -> Sensitivity:
    """Ask every law that hold-out cannot tell apart, and the fits without one group each, for the run at `flops`."""
    laws = tuple(_choice(r.law, r.centre, r.theta, flops, share=r.share) for r in drawn.laws)
    left_out = tuple(_without(drawn.point, x, flops) for x in drawn.left_out)
    return Sensitivity(flops, laws, left_out)


def _without(point: Replicates, x: LeftOut, flops: float) -> Choice:
    if x.theta is None:
        return Choice(point.law.name, None, None, None, by=x.by, without=x.group, reason=x.reason)
    return _choice(point.law, point.centre, x.theta, flops, by=x.by, without=x.group)


def _choice(
    law: Law, centre: Centre, theta: Array, flops: float, *, share: float | None = None, by: str = "", without: str = ""
) -> Choice:
    log_n = log_optimal_n(law, theta[None], centre, flops)
    loss = float(np.exp(loss_at(law, theta[None], centre, log_n, flops))[0])
    N, ratio = np.exp(np.clip([log_n[0], np.log(flops / 6) - 2 * log_n[0]], -EXTREME, EXTREME))
    return Choice(law.name, float(N), float(ratio), loss, share, by, without)
