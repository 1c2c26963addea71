"""The knobs that a tuning turns, one after the other, each with the ones before it at their best."""

from __future__ import annotations

from typing import Literal

from launch.scaling.tune.search import RATE, WIDE, Bracket

Knob = Literal["lr", "batch", "weight_decay"]
KNOBS: tuple[Knob, ...] = ("lr", "batch", "weight_decay")  # in the order in which they are tuned
WORDS: dict[Knob, str] = {"lr": "learning rate", "batch": "batch", "weight_decay": "weight decay"}
FACTOR, BATCH, DECAY = "optim.lr_factor", "batch.tokens_per_step", "optim.weight_decay"
SETTINGS: dict[Knob, str] = {"lr": FACTOR, "batch": BATCH, "weight_decay": DECAY}
COLUMNS: dict[Knob, str] = {"lr": "lr", "batch": "tokens_per_step", "weight_decay": "weight_decay"}  # of a ledger
BRACKETS: dict[Knob, Bracket] = {"lr": RATE, "batch": WIDE, "weight_decay": WIDE}
RATE_POWERS = {"adamw": 0.5, "muon": 0.5, "sgd": 1.0}  # of the learning rate in the batch: launch/sweep/cells/knobs.py


def origin_column(knob: Knob) -> str:
    """Return the column of a ledger that says how the value of a knob came about."""
    return f"{knob}_by"
