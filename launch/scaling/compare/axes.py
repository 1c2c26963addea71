"""The multiplier in other currencies than FLOPs: tokens, and the seconds that runs took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.compare.rungs import Rung
from launch.scaling.compare.shift import Estimate, Shift

FLAT = 0.05  # of log tokens or seconds over a whole ladder: what hardly varies is no axis


@dataclass(frozen=True)
class Axis:
    """The multiplier in tokens or in seconds: logarithms at each rung, and the common one."""

    rungs: tuple[Estimate | None, ...]
    common: Estimate


def axis_of(rungs: Sequence[Rung], found: Shift, name: str) -> Axis | str:
    """Return the multiplier in another currency than FLOPs, by how that grows along the base's ladder."""
    pairs = [(rung.base.tokens, rung.variant.tokens) for rung in rungs]
    if name == "seconds":
        known = [(rung.base.seconds, rung.variant.seconds) for rung in rungs]
        pairs = [(one, other) for one, other in known if one is not None and other is not None]
    if len(pairs) < len(rungs):
        return "the ledger does not say how long each run took"
    base, variant = np.log(np.array(pairs)).T
    if np.ptp(base) < FLAT:
        return f"every rung of the base has the same {name}"
    flops = np.log([rung.base.flops for rung in rungs])
    growth = float(np.polyfit(flops, base, 1)[0])
    if growth <= 0:
        return f"the {name} of the base do not grow with its compute"
    beyond = found.found.beyond  # the shift is of FLOPs over the variant's: what it has more comes on top
    each = tuple(
        one and _converted(one, growth, float(b), float(v - o))
        for one, b, v, o in zip(found.rungs, beyond, variant, base, strict=True)
    )
    weights = found.found.count * found.slope.values**2
    less = float(np.average(variant - base, weights=weights))
    return Axis(each, _converted(found.common, growth, float(np.average(beyond, weights=weights)), less))


def _converted(one: Estimate, growth: float, beyond: float, less: float) -> Estimate:
    return Estimate(growth * (one.value + beyond) - less, growth * one.error, one.freedom)
