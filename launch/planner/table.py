"""Layouts as a table for people."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.planner.layout import Estimate
from launch.planner.layouts import Layouts
from launch.show.text import count, size
from trainer.contract.durations import duration

SHOWN = 10
REFUSED_SHOWN = 5


def layouts_table(found: Layouts, shown: int = SHOWN) -> RenderableType:
    """Return the best layouts, the parts of the best one, and the layouts that came closest to fitting."""
    if not found.ranked:
        return Text("no layout fits", style="red")
    table = Table(
        title=f"Layouts on {found.world} x {found.gpu.name}, best first ({len(found.ranked)} fit)",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name in (
        "data",
        "seq",
        "tensor",
        "zero",
        "micro x acc",
        "recompute",
        "memory",
        "step",
        "tokens/s",
        "MFU",
        "time",
    ):
        table.add_column(name, justify="left" if name == "recompute" else "right")
    priced = found.best.cost is not None
    if priced:
        table.add_column("cost", justify="right")
    for estimate in found.ranked[:shown]:
        table.add_row(*_row(estimate), *([f"{estimate.cost:,.0f}"] if priced else []))
    return Group(table, Text(), _parts(found.best), *_notes(found), *_refused(found))


def _row(e: Estimate) -> list[str]:
    o = e.layout
    return [
        str(o.data),
        str(o.sequence),
        str(o.tensor),
        str(o.zero_stage),
        f"{o.micro_batch} x {o.accumulation}",
        o.recompute,
        size(e.memory["total"]),
        seconds(e.time.total),
        count(e.tokens_per_second),
        f"{e.mfu:.0%}",
        duration(3600 * e.hours),
    ]


def _parts(best: Estimate) -> Text:
    memory = ", ".join(f"{name} {size(value)}" for name, value in best.memory.items() if value and name != "total")
    time = ", ".join(f"{name} {seconds(v)}" for name, v in best.time.by_part().items() if v and name != "total")
    return Text(
        f"best: memory {memory}\n      step {time}\n      " + " ".join(f"--set {s}" for s in best.layout.settings())
    )


def _notes(found: Layouts) -> list[RenderableType]:
    return [Text(f"note: {note}", style="yellow") for note in found.notes]


def _refused(found: Layouts) -> list[RenderableType]:
    if not found.refused:
        return []
    lines = [f"  {r.layout}: {r.reason}" for r in found.refused[:REFUSED_SHOWN]]
    return [Text(), Text(f"{len(found.refused)} do not fit; the closest:\n" + "\n".join(lines))]


def seconds(value: float) -> str:
    """Return 12.3 ms or 1.23 s."""
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def verified_text(found: dict[str, Any]) -> str:
    """Return what a dry run found beside what was planned."""
    planned = found["planned_parameters"]
    parameters = f"{found['parameters']:,} parameters on a rank" + (f" (planned {planned:,})" if planned else "")
    saved = f"{size(found['saved_bytes'])} saved for the backward pass (planned {size(found['planned_saved_bytes'])})"
    return f"\nverified with {found['world']} fake ranks in {found['seconds']:.0f} s: {parameters}; {saved}"
