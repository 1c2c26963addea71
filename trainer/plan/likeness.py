"""What the curve of a run depends on besides its size, length and seed: runs that agree in it foretell one another."""

from __future__ import annotations

from typing import Any

from trainer.config.differences import differences
from trainer.config.identity import Determines, determining
from trainer.config.run import RunConfig
from trainer.contract.expected import ExpectedCurve

# Size, length and seed (that of the data, too), and what says only how a run is carried out or measured.
FREE = ("tokens", "steps", "seed", "precision", "checkpoint", "skip_steps", "guard", "evaluation")
NUMBERS = ("context_length", "vocab_size")  # of the model that must agree; width, depth and heads are its size
RATE = ("lr", "lr_factor")


def likeness(config: RunConfig) -> dict[str, Any]:
    """Return it as plain JSON values. A vocabulary that is not known yet is left out."""
    found = {key: value for key, value in determining(config, Determines.RESULT).items() if key not in FREE}
    found["data"] = {key: value for key, value in found["data"].items() if key != "seed"}
    model = found["model"]
    found["model"] = {
        key: value
        for key, value in model.items()
        if key in NUMBERS or isinstance(value, bool) or not isinstance(value, int)
    }
    if found["model"].get("vocab_size") is None:
        found["model"].pop("vocab_size", None)
    return found


def unlikeness(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return the settings in which two differ, with both values; "" where they agree.

    A vocabulary that one of them does not know is no difference.
    """
    if {"vocab_size"} & (one["model"].keys() ^ other["model"].keys()):
        one, other = ({**d, "model": {k: v for k, v in d["model"].items() if k != "vocab_size"}} for d in (one, other))
    return differences(one, other)


def unlike_expected(curve: ExpectedCurve, config: RunConfig, data_hash: str) -> str:
    """Return the settings and data that a run has and the finished ones behind its curve had not; "" for none."""
    said = [curve.other_rate, unlikeness(curve.made_for, likeness(config))]
    if curve.data_hash not in (None, data_hash):
        said.append(f"prepared data: hash {curve.data_hash} there, {data_hash} here")
    return "; ".join(one for one in said if one)
