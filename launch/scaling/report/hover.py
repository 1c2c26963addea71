"""What the pointer says about the points of a chart: their places in its image and a line of text for each.

A chart stays an image; the page lays the texts over it with a few lines of script of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.table.table import Table
from launch.show.text import count, flops_text

MOST_POINTS = 2_000  # of a chart: more make a page heavy, and lie too near to be pointed at
ATTRIBUTE = "_escala_points"

Point = tuple[float, float, str]  # shares of the width, from the left, and of the height, from the top


def label(ax: Any, x: Array, y: Array, texts: Sequence[str]) -> None:
    """Say what the pointer shows over each point (n,), in data coordinates."""
    known = getattr(ax, ATTRIBUTE, [])
    setattr(ax, ATTRIBUTE, [*known, *zip(np.asarray(x, float), np.asarray(y, float), texts, strict=True)])


def points(ax: Any) -> list[Point]:
    """Return the labelled points that lie inside the axes of a figure that is drawn."""
    labelled = getattr(ax, ATTRIBUTE, [])
    if not labelled or len(labelled) > MOST_POINTS:
        return []
    width, height = ax.figure.bbox.width, ax.figure.bbox.height
    places = ax.transData.transform([(x, y) for x, y, _ in labelled])
    inside = ax.bbox
    return [
        (round(float(px) / width, 4), round(1 - float(py) / height, 4), text)
        for (px, py), (_, _, text) in zip(places, labelled, strict=True)
        if np.isfinite([px, py]).all() and inside.contains(px, py)
    ]


def run_names(table: Table) -> list[str]:
    """Return the name of each run, or the number of its row."""
    names = table.labels.get("name", np.full(len(table), ""))
    return [str(name) or f"row {row}" for name, row in zip(names, table.row, strict=True)]


def run_texts(table: Table, predicted: Array | None = None) -> list[str]:
    """Return a line about each run: name, N, D, C, loss, and with `predicted` (n,) the law's loss."""
    written = {"N": count, "D": count, "C": flops_text}
    texts = []
    for i, name in enumerate(run_names(table)):
        parts = [f"{v} {shown(float(table.columns[v][i]))}" for v, shown in written.items() if table.has(v)]
        parts.append(f"loss {table.loss[i]:.4f}")
        if predicted is not None:
            parts.append(f"law {predicted[i]:.4f} ({table.loss[i] / predicted[i] - 1:+.2%})")
        texts.append(f"{name}: {', '.join(parts)}")
    return texts
