"""The runs one by one: what was measured, what the law says, and how far off it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from launch.scaling.fit.fit import Fitted
from launch.scaling.report.axes import NATS, Scale, plain
from launch.scaling.report.hover import label, run_names, run_texts
from launch.scaling.report.model import Figure, Grid, Section
from launch.scaling.table.table import Table
from launch.show.text import count, flops_text

MOST_ROWS = 250  # of the table
ROOM = 0.04  # beyond the losses, share of their span


def runs_section(table: Table, fitted: Fitted) -> Section:
    """Return predicted against measured losses, and a table of all runs, or of the many those that are off most."""
    chart = Figure(
        "predicted_against_measured",
        "The loss that the law gives each run against that measured. On the line both are one.",
        lambda ax: predicted_against_measured(ax, table, fitted),
    )
    return Section("Runs", [], [chart], [runs_grid(table, fitted)])


def predicted_against_measured(ax: Any, table: Table, fitted: Fitted) -> None:
    """Draw the law's loss of each run against its own, coloured by size."""
    predicted = fitted.predict(fitted.columns)
    both = np.concatenate([predicted, table.loss])
    low, high = float(both.min()), float(both.max())
    room = ROOM * max(high - low, 1e-3)
    ends = low - room, high + room
    ax.plot(ends, ends, color="black", lw=1.0, zorder=2)
    sizes = Scale("N", table.N)
    sizes.scatter(ax, table.loss, predicted, table.N)
    label(ax, table.loss, predicted, run_texts(table, predicted))
    sizes.bar(ax)
    ax.set_xlim(ends)
    ax.set_ylim(ends)
    ax.set_xlabel(f"measured {NATS}")
    ax.set_ylabel("law (nats per token)")
    plain(ax)


def runs_grid(table: Table, fitted: Fitted) -> Grid:
    """Return a row for each run in the order of the file; of more than `MOST_ROWS` those that the law misses most."""
    predicted = fitted.predict(fitted.columns)
    off = table.loss / predicted - 1
    shown = np.sort(np.argsort(-np.abs(off), kind="stable")[:MOST_ROWS])
    names, spent = run_names(table), table.labels.get("spent", ())
    rows = [
        [names[i], str(int(table.row[i])), count(table.N[i]), count(table.D[i]), flops_text(float(table.C[i])),
         f"{table.loss[i]:.4f}", f"{predicted[i]:.4f}", f"{off[i]:+.2%}", *([str(spent[i])] if any(spent) else [])]
        for i in shown
    ]  # fmt: skip
    caption = "Row: number in the file, header not counted. Off: measured over law, less one."
    if len(table) > MOST_ROWS:
        caption += f" Shown are the {MOST_ROWS} of {len(table)} runs that the law misses most."
    header = ["run", "row", "N", "D", "C", "loss (nats)", "law", "off", *(["cost"] if any(spent) else [])]
    return Grid(header, rows, caption)
