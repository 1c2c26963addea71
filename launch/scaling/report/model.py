"""What a report consists of, independent of how it is rendered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Draws into a matplotlib axes; the type is not named so that matplotlib is imported only when a figure is drawn.
Draw = Callable[[Any], None]


@dataclass(frozen=True)
class Figure:
    """A chart: file name without suffix, what it shows, and how to draw it.

    With `panels`, their names, `draw` gets a list of axes, and each is an image of its own.
    """

    name: str
    caption: str
    draw: Draw
    panels: Sequence[str] = ()


@dataclass(frozen=True)
class Grid:
    """A table. All columns but the first hold numbers, unless it is of `text`."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text: bool = False


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, then figures, then tables."""

    title: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    grids: Sequence[Grid] = ()


@dataclass(frozen=True)
class Report:
    """A titled list of sections; the headline answers the question that the runs were made for."""

    title: str
    headline: Sequence[str]
    sections: Sequence[Section]


def interval(low: float, high: float, digits: str = ".3f") -> str:
    """Write an interval: `[1.62, 1.75]`."""
    return f"[{low:{digits}}, {high:{digits}}]"
