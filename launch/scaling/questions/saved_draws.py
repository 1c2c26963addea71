"""The draws of a decision as JSON, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from launch.scaling.laws.base import Centre
from launch.scaling.laws.registry import find_law
from launch.scaling.trust.internal import digits
from launch.scaling.trust.replicates import DecisionDraws, LeftOut, Replicates


def draws_json(drawn: DecisionDraws) -> dict[str, Any]:
    """Return everything that another budget can be asked with."""
    return {
        "cluster": drawn.cluster,
        "cluster_why": drawn.cluster_why,
        "shared_sd": drawn.shared_sd,
        "laws": [
            {"law": r.law.name, "share": r.share, "centre": dict(r.centre.means), "theta": r.theta.tolist(),
             "draws": digits(r.draws)}
            for r in drawn.laws
        ],
        "left_out": [
            {"by": x.by, "group": x.group, "theta": None if x.theta is None else x.theta.tolist(), "reason": x.reason}
            for x in drawn.left_out
        ],
    }  # fmt: skip


def draws_from(values: dict[str, Any]) -> DecisionDraws:
    """Return what `draws_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    laws = []
    for entry in values["laws"]:
        theta = np.array(entry["theta"], float)
        draws = np.array(entry["draws"], float).reshape(-1, len(theta))
        laws.append(Replicates(find_law(entry["law"]), float(entry["share"]), Centre(entry["centre"]), theta, draws))
    left_out = tuple(
        LeftOut(x["by"], x["group"], None if x["theta"] is None else np.array(x["theta"], float), x["reason"])
        for x in values["left_out"]
    )
    return DecisionDraws(tuple(laws), left_out, values["cluster"], float(values["shared_sd"]), values["cluster_why"])
