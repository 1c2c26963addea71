"""The table of errors on larger budgets that a fit did not see: for the terminal and for the report alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launch.scaling.report.model import Grid
from launch.scaling.trust.cuts import SHARES

BANDS = ((1.0, 3.0), (3.0, 10.0), (10.0, 100.0), (100.0, math.inf))  # factors beyond the fitted budgets

if TYPE_CHECKING:
    from launch.scaling.trust.holdout import HoldOut


def hold_out_grid(held: Sequence[HoldOut]) -> Grid:
    """Return the mean error of every law on larger budgets, in all and by the distance from what it saw."""
    shown = [band for band in BANDS if any(h.within(*band) is not None for h in held)]
    header = ["law", "mean error"] + [_band(low, high) for low, high in shown]
    rows = [[h.law, f"{h.mean:.2%}"] + [_percent(h.within(low, high)) for low, high in shown] for h in held]
    cuts = [f"{SHARES[c]:.0%}" for c in held[0].shared] if held else []
    caption = "Error of the loss by how many times the compute of the largest run that a fit saw."
    if cuts:
        caption += f" Mean: over the fits to the smallest {', '.join(cuts)} of the runs, which suffice for every law."
    return Grid(header, rows, caption)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _band(low: float, high: float) -> str:
    return f"over {low:.0f}x" if math.isinf(high) else f"{low:.0f}-{high:.0f}x"
