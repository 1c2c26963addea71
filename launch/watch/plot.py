"""A curve drawn in characters: each Braille character is a raster of 2 x 4 dots."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from launch.show.text import count

EMPTY = 0x2800
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column and row, from the top
LABEL = 8  # characters of a number on the axis


def plot(
    points: Sequence[tuple[float, float]], width: int, height: int, *, log_x: bool = False, x_name: str = "step"
) -> list[str]:
    """Return the lines of a chart of (x, y), at most so many characters wide and high, axes included.

    With `log_x`, points with x below 1 are left out. Nothing is drawn of fewer than two points.
    """
    usable = [(math.log(x) if log_x else x, y) for x, y in points if math.isfinite(y) and (x >= 1 or not log_x)]
    columns, rows = width - LABEL - 1, height - 1
    if len(usable) < 2 or columns < 8 or rows < 2:
        return ["no curve yet"]
    (left, right), (low, high) = _span([x for x, _ in usable]), _span([y for _, y in usable])
    across, down = 2 * columns - 1, 4 * rows - 1
    dots = [(round((x - left) / (right - left) * across), round((high - y) / (high - low) * down)) for x, y in usable]
    raster = [[0] * columns for _ in range(rows)]
    for (x, y), (to_x, to_y) in itertools.pairwise(dots):
        steps = max(abs(to_x - x), abs(to_y - y), 1)
        for part in range(steps + 1):
            dot_x, dot_y = x + round((to_x - x) * part / steps), y + round((to_y - y) * part / steps)
            raster[dot_y // 4][dot_x // 2] |= DOTS[dot_x % 2][dot_y % 4]
    marked = {
        0: high,
        rows - 1: low,
        **({rows // 2: high - (high - low) * (rows // 2) / (rows - 1)} if rows > 4 else {}),
    }
    labels = [f"{marked[row]:>{LABEL}.4g}" if row in marked else " " * LABEL for row in range(rows)]
    drawn = ["".join(chr(EMPTY + cell) for cell in cells) for cells in raster]
    lines = [f"{label}┤{cells}" for label, cells in zip(labels, drawn, strict=True)]
    first, last = (count(math.exp(x) if log_x else x) for x in (left, right))
    scale = f"{x_name}{' (log)' if log_x else ''}"
    return [*lines, " " * LABEL + f"└{first} {scale:^{max(0, columns - len(first) - len(last) - 2)}} {last}"]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
