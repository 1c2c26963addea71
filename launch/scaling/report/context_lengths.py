"""Speed and memory of mixers against the length of the context, as `benchmarks.context --out FILE` measured them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from launch.scaling.report.axes import legend_above, log_x, log_y
from launch.scaling.report.family_figures import MARKERS, STYLES
from launch.scaling.report.figures import PALETTE
from launch.scaling.report.model import Figure, Grid, Section
from launch.show.text import count
from trainer.contract.errors import UserError

SPEED, MEMORY = "tokens_per_second", "bytes"
LABELS = {SPEED: "tokens a CPU second", MEMORY: "bytes that a step adds"}
REFERENCE = "attention"


class Point(BaseModel):
    """A training step of one mixer at one length."""

    model_config = ConfigDict(extra="forbid")
    context: int = Field(gt=0)
    tokens_per_second: float = Field(gt=0)
    bytes: float = Field(gt=0)


class Measured(BaseModel):
    """The whole file. `better_from` has, for speed and memory, the length from which on a mixer beats attention."""

    size: str
    tokens_per_step: int
    vocabulary: int
    mixers: dict[str, list[Point]] = Field(min_length=1)
    better_from: dict[str, dict[str, float | None]]


def read_measured(path: Path) -> Measured:
    """Read the file. Raises UserError where it is missing or is something else."""
    try:
        return Measured.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; python -m benchmarks.context --out {path} writes it") from None
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{path} is not what benchmarks.context writes: {at}: {first['msg'].lower()}. Write it with python -m "
            f"benchmarks.context --out {path}"
        ) from None


def context_section(path: Path) -> Section:
    """Return the section: two charts, and where each mixer overtakes attention."""
    measured = read_measured(path)
    about = (
        f"{measured.size} body parameters, {count(measured.tokens_per_step)} tokens a step, a vocabulary of "
        f"{count(measured.vocabulary)}, float32, one thread of a CPU."
    )
    charts = [
        Figure("speed_against_context", f"Training speed against the context. {about}", _drawer(measured, SPEED)),
        Figure("memory_against_context", f"Memory of a step against the context. {about}", _drawer(measured, MEMORY)),
    ]
    return Section("Speed and memory by context", [], charts, [_crossings(measured)])


def _drawer(measured: Measured, key: str) -> Any:
    def draw(ax: Any) -> None:
        for k, (name, points) in enumerate(measured.mixers.items()):
            look = {"color": PALETTE[k % len(PALETTE)], "marker": MARKERS[k % len(MARKERS)], "label": name}
            style = STYLES[k // len(PALETTE) % len(STYLES)]
            ax.plot([p.context for p in points], [getattr(p, key) for p in points], ls=style, ms=4, lw=1.5, **look)
        log_x(ax, "tokens of context", LABELS[key], lambda length: f"{length:,.0f}")
        ax.set_xticks([p.context for p in next(iter(measured.mixers.values()))])
        ax.minorticks_off()
        log_y(ax, np.array([getattr(p, key) for points in measured.mixers.values() for p in points]), count)
        legend_above(ax, 3)

    return draw


def _crossings(measured: Measured) -> Grid:
    lengths = [p.context for p in next(iter(measured.mixers.values()))]
    rows = []
    for name, points in measured.mixers.items():
        slowdown = points[0].tokens_per_second / points[-1].tokens_per_second
        froms = [_from(measured, key, name, lengths) for key in (SPEED, MEMORY)]
        rows.append([name, count(points[0].tokens_per_second), count(points[-1].tokens_per_second), f"{slowdown:.2f}x"])
        rows[-1] += ["-", "-"] if name == REFERENCE else froms
    header = ["mixer", f"tokens/s at {lengths[0]}", f"at {lengths[-1]:,}", "slower by", "faster than attention from"]
    caption = "Context from which on a mixer stays better than attention, interpolated between two measured lengths."
    return Grid([*header, "leaner from"], rows, caption)


def _from(measured: Measured, key: str, name: str, lengths: list[int]) -> str:
    at = measured.better_from.get(key, {}).get(name)
    if at is None:
        return f"not up to {lengths[-1]:,}"
    return f"all ({lengths[0]})" if at <= lengths[0] else f"{at:,.0f}"
