"""A comparison and a power table as plain values for scripts; multipliers with their 90 % intervals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from launch.scaling.compare.axes import Axis
from launch.scaling.compare.comparison import Comparison
from launch.scaling.compare.power import Power
from launch.scaling.compare.rungs import Arm, Rung
from launch.scaling.compare.shift import Estimate
from launch.scaling.compare.verdict import FALSE_PROMOTIONS

Plain = dict[str, Any]


def comparison_json(found: Comparison) -> Plain:
    """Return everything that the text says."""
    shift, differences = found.shift, found.differences
    return {
        "base": found.base.name,
        "variant": found.variant.name,
        "eval_set": found.base.eval_set,
        "differences": {
            "configs_compared": differences.configs,
            "change_stated": differences.stated,
            "found": [dataclasses.asdict(one) for one in differences.found],
        },
        "verdict": {
            **dataclasses.asdict(found.verdict), "worth": found.worth, "false_promotion_rate": FALSE_PROMOTIONS,
        },
        "multiplier": {
            "compute": {"common": _interval(shift.common), "rungs": [_interval(one) for one in shift.rungs]},
            "tokens": _axis(found.tokens),
            "wall_clock": _axis(found.seconds),
            "trend_per_tenfold": _interval(shift.trend.scaled(float(np.log(10)))),
        },
        "rungs": [_rung(rung) for rung in found.rungs],
        "rests_on": {
            "asymptote": found.asymptote,
            "paired": found.paired,
            "data_order_shared": found.shares_order,
            "rungs_share_seeds": found.rungs_share_seeds,
            "noise": dataclasses.asdict(shift.noise),
            "rungs_differ_p": shift.unequal,
            "notes": list(found.notes),
        },
    }  # fmt: skip


def power_json(found: Power) -> Plain:
    """Return the table, and the noise that it stands on."""
    return {**dataclasses.asdict(found), "visible": {str(seeds): value for seeds, value in found.visible.items()}}


def _rung(rung: Rung) -> Plain:
    return {"base": _arm(rung.base), "variant": _arm(rung.variant)}


def _arm(arm: Arm) -> Plain:
    values = {name: getattr(arm, name) for name in ("parameters", "tokens", "flops", "seconds")}
    return {**values, "losses": [{"seed": i, "order_seed": o, "loss": v} for (i, o), v in arm.losses.items()]}


def _interval(one: Estimate | None) -> Plain | None:
    if one is None:
        return None
    low, high = np.exp(one.interval)
    return {"value": float(np.exp(one.value)), "low": float(low), "high": float(high)}


def _axis(axis: Axis | str) -> Plain:
    if isinstance(axis, str):
        return {"unknown": axis}
    return {"common": _interval(axis.common), "rungs": [_interval(one) for one in axis.rungs]}
