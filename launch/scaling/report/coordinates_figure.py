"""The figure of a coordinate check: the change of each kind of activation against the width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.scaling.other.coordinates import Slope
from launch.scaling.report.axes import legend_beside, plain
from launch.scaling.report.figures import PALETTE


def draw(found: Sequence[Slope], title: str, file: Path) -> None:
    """Write the figure into a file, in the format that its ending names."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 4.5))
    ax = drawing.add_subplot()
    for one, colour in zip(found, PALETTE, strict=False):
        label = f"{one.kind} {one.slope:+.2f}: {one.verdict}"
        ax.plot(list(one.sizes), list(one.sizes.values()), "o-", color=colour, label=label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("width (d_model)")
    ax.set_ylabel("mean change of an activation")
    ax.set_title(title)
    plain(ax)
    legend_beside(ax, "power of the width")
    drawing.savefig(file, dpi=150, bbox_inches="tight")
