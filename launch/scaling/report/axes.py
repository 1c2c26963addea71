"""What the charts of a report share: logarithmic axes with readable numbers, colour scales, legends beside the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.show.text import count

LABEL = {"N": "parameters N", "D": "training tokens D", "C": "training FLOPs C"}
NATS, PERPLEXITY = "validation loss (nats per token)", "validation perplexity"
SUBDIVISIONS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))  # of a decade
FEWEST, MOST = 3, 7  # numbers on an axis
FEW_DOTS = 60
ROOM, LEAST_ROOM = 0.08, 1.05  # above and below what a logarithmic axis shows
LEGEND_LINE, LEGEND_GAP = 0.055, 0.03  # share of a figure's height


def log_x(ax: Any, name: str, y_label: str, shown: Callable[[float], str] | None = None) -> None:
    """Make the x axis that of N, D or C, or of anything else with its own way to write a number, and name both axes."""
    ax.set_xscale("log")
    _number(ax.xaxis, ax.get_xlim(), shown or NUMBER[name])
    ax.set_xlabel(LABEL.get(name, name))
    ax.set_ylabel(y_label)
    plain(ax)


def log_y(ax: Any, shown: Array, number: Callable[[float], str] | None = None) -> None:
    """Make the y axis logarithmic too, around what is to be seen of `shown`: a band may go on.

    `number` writes its numbers; default: plainly.
    """
    ax.set_yscale("log")
    drawable = shown[np.isfinite(shown) & (shown > 0)]
    if len(drawable) == 0:
        return
    low, high = float(np.min(drawable)), float(np.max(drawable))
    margin = max((high / low) ** ROOM, LEAST_ROOM)
    ax.set_ylim(low / margin, high * margin)
    _number(ax.yaxis, ax.get_ylim(), number or plain_number)


def _number(axis: Any, limits: tuple[float, float], shown: Callable[[float], str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    if not 0 < limits[0] < limits[1] < math.inf:  # nothing was drawn
        return
    axis.set_major_locator(FixedLocator(log_ticks(*limits)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers between two positive ones, evenly spaced in the logarithm where possible."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for subdivision in SUBDIVISIONS:
        ticks = [part * 10.0**e for e in decades for part in subdivision if low <= part * 10.0**e <= high]
        if len(ticks) >= FEWEST:
            return ticks[:: math.ceil(len(ticks) / MOST)]
    from matplotlib.ticker import MaxNLocator

    return [float(t) for t in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= t <= high]


def power_of_ten(value: float) -> str:
    """Write 10⁸, 3×10⁷: matplotlib's own formatter parses mathematics, which takes most of the time of a chart."""
    exponent = int(np.floor(np.log10(value) + 1e-9))
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    scaled = value / 10.0**exponent
    return f"10{digits}" if abs(scaled - 1) < 1e-6 else f"{scaled:.3g}×10{digits}"


def plain_number(value: float) -> str:
    """Write 0.05, 200, and powers of ten beyond."""
    return f"{value:g}" if 1e-3 <= value < 1e5 else power_of_ten(value)


def factor(value: float) -> str:
    """Write 2×, 100×."""
    return f"{value:g}×"


NUMBER: dict[str, Callable[[float], str]] = {"N": count, "D": count, "C": power_of_ten}


class Scale:
    """Colours for the values of N, D or C, by their logarithm. One value has one colour and no bar."""

    def __init__(self, name: str, values: Array, colours: str = "viridis") -> None:
        import matplotlib
        from matplotlib.colors import LinearSegmentedColormap, LogNorm

        self.name, self.low, self.high = name, float(np.min(values)), float(np.max(values))
        dark = matplotlib.colormaps[colours](np.linspace(0, 0.9, 256))  # the lightest are lost on white
        self.map = LinearSegmentedColormap.from_list(colours, dark)
        self.norm = LogNorm(self.low, self.high if self.high > self.low else self.low * 1.001)

    def __call__(self, value: float) -> Any:
        return self.map(self.norm(value))

    def scatter(self, ax: Any, x: Array, y: Array, values: Array) -> None:
        """Draw points in the colours of their values."""
        ax.scatter(x, y, c=values, cmap=self.map, norm=self.norm, s=dot_size(len(x)) ** 2, linewidths=0, zorder=4)

    def bar(self, ax: Any) -> None:
        """Draw the scale to the right of a chart."""
        if self.high <= self.low * 1.001:
            return
        from matplotlib.cm import ScalarMappable

        bar = ax.figure.colorbar(ScalarMappable(self.norm, self.map), ax=ax, label=LABEL[self.name], pad=0.03)
        bar.ax.minorticks_off()
        _number(bar.ax.yaxis, (self.low, self.high), NUMBER[self.name])
        bar.ax.minorticks_off()


def dot_size(number: int) -> float:
    """Return the diameter of one of so many dots, in points."""
    return 5.5 if number <= FEW_DOTS else 4.0


def legend_above(ax: Any, columns: int = 2) -> None:
    """Put the legend over the chart, never over the data."""
    entries = len(ax.get_legend_handles_labels()[1])
    rows = -(-entries // columns)
    ax.figure.subplots_adjust(top=1 - LEGEND_GAP - LEGEND_LINE * rows)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.1)


def legend_beside(ax: Any, title: str) -> None:
    """Put a legend of many short entries to the right of the chart."""
    ax.figure.subplots_adjust(right=0.79)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), title=title, borderaxespad=0.0)


def plain(ax: Any) -> None:
    """Leave a frame of two sides and a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, lw=0.6)
