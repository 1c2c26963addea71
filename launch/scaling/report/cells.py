"""The cells of a ladder as a table, and how their sizes are written."""

from __future__ import annotations

import numpy as np

from launch.scaling.other.ladder import Ladder
from launch.scaling.report.model import Grid
from launch.scaling.table.table import Table
from launch.show.text import count, flops_text

UNIT = {"N": "parameters", "D": "training tokens", "C": "training FLOPs"}


def cell_grid(ladder: Ladder) -> Grid:
    """Return one row for each cell, smallest first, with what is known of N, D and C."""
    table = ladder.table
    names, spent = table.labels.get("name"), table.labels.get("spent", ())
    sizes = [v for v in ("N", "D", "C") if table.has(v)]
    ratio = table.D / table.N if table.has("N", "D") else None
    rows = []
    for i in np.argsort(table.columns[ladder.variable], kind="stable"):
        cells = [str(names[i]) if names is not None else f"row {table.row[i]}"]
        cells += [size_text(v, table.columns[v][i]) for v in sizes]
        cells += [] if ratio is None else [f"{ratio[i]:.3g}"]
        cells += [f"{table.loss[i]:.4f}", f"{np.exp(table.loss[i]):.2f}"]
        cells += [str(spent[i])] if any(spent) else []
        rows.append([*cells, "held out" if ladder.held_out[i] else ""])
    header = ["cell", *sizes, *([] if ratio is None else ["D/N"]), "loss (nats)", "perplexity"]
    header += ["cost", ""] if any(spent) else [""]
    return Grid(header, rows, f"{_sem(table)}{counting_after(table)}".strip())


def counting_after(table: Table) -> str:
    """Say what N counts, as a sentence after another; empty where the table does not say."""
    return f" {table.counting}." if table.counting else ""


def size_text(variable: str, value: float) -> str:
    """Write a value of N, D or C."""
    return flops_text(float(value), 3) if variable == "C" else count(float(value))


def _sem(table: Table) -> str:
    sem = table.columns.get("sem")
    if sem is None or not np.isfinite(sem).any():
        return ""
    return f"Standard error of the losses over evaluated sequences: up to {np.nanmax(sem):.4f} nats."
