"""Curves that W&B's web page exports from a panel: one column a run, and no sizes to fit a law to."""

from __future__ import annotations

import re

from launch.scaling.table.checks import names_text
from launch.scaling.table.reading import Raw
from trainer.contract.errors import UserError

_CURVE = re.compile(r"^(?P<run>.+) - (?P<metric>.+?)(?P<end>__MIN|__MAX)?$")


def refuse_curves(raw: Raw, source: str) -> None:
    """Raise `UserError` for the export of a panel, with its runs and their last values.

    Such a file has a column for each run, each with its least and largest value beside it.
    """
    found = [match for column in raw.columns if (match := _CURVE.match(str(column)))]
    runs = list(dict.fromkeys(m["run"] for m in found if not m["end"]))
    if not runs or sum(1 for m in found if m["end"]) < 2 * len(runs):
        return
    metric = next(m["metric"] for m in found)
    columns = {run: [row.get(f"{run} - {metric}") for row in raw.rows] for run in runs}
    ends = [f"{run} {next((v for v in reversed(values) if v), 'none')}" for run, values in columns.items()]
    raise UserError(
        f"{source} is a panel of W&B: curves of {metric!r} for {len(runs)} runs (last values: "
        f"{names_text(ends, limit=8, letters=60)}), without their N and D. Export the table of runs instead, with "
        f"columns of parameters, tokens and {metric!r}, or write those values as rows of N,D,loss"
    )
