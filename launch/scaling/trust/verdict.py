"""Whether a decision may be acted on: certified, weak or refused for one target, by rules that are stated here.

It judges what is asked, N* and the loss at the target, not the parameters: a floor that nothing identifies refuses a
decision only in so far as N* or the loss hang on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.scaling.trust.decision import Spread
from launch.scaling.trust.grades import Status
from launch.scaling.trust.replicates import DecisionDraws

FURTHER = 10.0  # times the largest budget: the target where none is named


@dataclass(frozen=True)
class Limit:
    """Above `weak` a decision is weak, above `refused` it is refused."""

    weak: float
    refused: float

    def status(self, value: float) -> Status:
        return "refused" if not value <= self.refused else "weak" if value > self.weak else "certified"


N_FACTOR = Limit(3.0, 10.0)  # of the upper end of the interval of N* over its lower end
LOSS_WIDTH = Limit(0.05, 0.15)  # of the interval of the loss, as a share of the loss
WASTE = Limit(0.10, 0.30)  # of the budget, at the 95 % point
LEFT_OUT = Limit(3.0, 10.0)  # N* of the fits without one size or budget each, the largest over the smallest
HOLD_OUT = Limit(0.03, 0.10)  # mean error of the law on larger budgets
DISTANCE = {"C": Limit(10.0, 1000.0), "N": Limit(10.0, 100.0), "D": Limit(10.0, 100.0)}  # over the largest run's
ROUNDING = 1.001  # ten times the largest budget is not beyond ten times
ORDER: tuple[Status, ...] = ("certified", "weak", "refused")


@dataclass(frozen=True)
class Evidence:
    """What is known about a fit besides its draws. `held_out` is the mean hold-out error of its law."""

    reasons: tuple[str, ...] = ()  # weaknesses of the fit itself
    doubts: tuple[str, ...] = ()
    held_out: float | None = None
    largest: Mapping[str, float] | None = None  # the largest N, D and C of the runs


NO_EVIDENCE = Evidence()


@dataclass(frozen=True)
class Verdict:
    """The grade of one decision, with every rule that lowered it, worst first."""

    status: Status
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return status and reasons for `--json`."""
        return {"status": self.status, "reasons": list(self.reasons)}


def judge(
    log_n: Spread, log_d: Spread, loss: Spread, waste: float, flops: float, draws: DecisionDraws, evidence: Evidence
) -> Verdict:
    """Grade the decision to spend `flops` on exp(`log_n.value`) parameters and exp(`log_d.value`) tokens."""
    found = [
        *_open(log_n, loss, waste),
        *_far(flops, log_n.value, log_d.value, evidence.largest or {}),
        *_left_out(log_n, draws),
        *_held_out(evidence.held_out),
        *_shared(draws, evidence.doubts),
    ]
    graded = [(status, why) for status, why in found if status != "certified"]
    graded += [("weak", why) for why in (*evidence.reasons, *(f"doubt: {d}" for d in evidence.doubts))]
    graded.sort(key=lambda pair: -ORDER.index(pair[0]))
    return Verdict(graded[0][0] if graded else "certified", tuple(why for _, why in graded))


Graded = tuple[Status, str]


def _open(log_n: Spread, loss: Spread, waste: float) -> Iterator[Graded]:
    factor = float(np.exp(min(log_n.interval[1] - log_n.interval[0], 700.0)))
    low, high = (size(end) for end in log_n.interval)
    yield N_FACTOR.status(factor), f"N* is open: 95 % from {low} to {high}"
    least, most = np.exp(np.minimum(loss.interval, 700.0))
    yield (
        LOSS_WIDTH.status(loss.interval[1] - loss.interval[0]),
        f"the loss is open: 95 % from {least:.4g} to {most:.4g} nats",
    )
    yield WASTE.status(waste), f"acting on it may waste {waste:.0%} of the budget"


def _far(flops: float, log_n: float, log_d: float, largest: Mapping[str, float]) -> Iterator[Graded]:
    N, D = np.exp(np.clip([log_n, log_d], -700, 700))
    for name, what, value in (("C", "the target is", flops), ("N", "N* is", N), ("D", "D* is", D)):
        if name in largest:
            times = float(value) / largest[name]
            yield DISTANCE[name].status(times / ROUNDING), f"{what} {times:.3g} times the largest {name} of the runs"


def _left_out(log_n: Spread, draws: DecisionDraws) -> Iterator[Graded]:
    low, high = log_n.left_out
    factor = float(np.exp(min(high - low, 700.0)))
    yield LEFT_OUT.status(factor), f"leaving one group of runs out moves N* from {size(low)} to {size(high)}"
    for by in dict.fromkeys(x.by for x in draws.left_out):
        lost = [x for x in draws.left_out if x.by == by and x.theta is None]
        if lost:
            groups = sum(x.by == by for x in draws.left_out)
            yield (
                "weak",
                f"without one {by}, {len(lost)} of {groups} fits cannot tell, so nothing tests it: {lost[0].reason}",
            )


def _held_out(error: float | None) -> Iterator[Graded]:
    if error is not None:
        yield HOLD_OUT.status(error), f"the law missed held-out larger budgets by {error:.1%} on average"


def _shared(draws: DecisionDraws, doubts: tuple[str, ...]) -> Iterator[Graded]:
    """A few groups hardly say how large the error is that they share, nor do they test that it is one."""
    if draws.shared_sd > 0 and not any(draws.cluster_why in d for d in doubts):
        yield "weak", draws.cluster_why


def size(log_n: float) -> str:
    """Write a number of parameters from its logarithm."""
    if not 0 <= log_n <= np.log(1e18):  # nothing that one could train
        return "0" if log_n < 0 else "infinity"
    return f"{np.exp(log_n):.3g}"
