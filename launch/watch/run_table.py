"""The table of runs: how they look at 80 columns and wider."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from launch.show.costs import costs_text, total
from launch.show.text import count
from launch.watch.run_view import RunView
from launch.watch.selection import STATES, Selection
from trainer.contract.durations import duration
from trainer.observe.metrics import FORMATS

WIDE = 110  # characters, from which on the reason has a column
SPARK, LEAST_SPARK, LEAST_NAME = 12, 6, 16  # characters of a curve, and of a name with the space after it
SETTING = re.compile(r"(^|-)[A-Za-z_][\w.]*=")  # of the name of a cell
BARS = "▁▂▃▄▅▆▇█"
SIGMA = 3.0  # standard deviations from the expected curve, from which on a run is marked
STYLES = {"failed": "red", "dead": "red", "diverged": "red", "unknown": "yellow", "running": "cyan", "done": "green"}


def run_table(views: Sequence[RunView], width: int, at: str | None = None) -> Table:
    """Return one line for each run. It fits 80 columns; from 110 on the reason of a state is shown too.

    The distance from the expected curve has a column where any run has one. `at` is the directory of a run to mark.
    """
    wide, off = width >= WIDE, any(view.off is not None for view in views)
    names = ["state", "step", "loss", *(["off"] if off else []), "tok/s", "MFU", "left"]
    cells = [_cells(view, off=off) for view in views]
    used = sum(1 + max(map(cell_len, column)) for column in zip(names, *cells, strict=True))
    spark = min(SPARK, max(LEAST_SPARK, width - used - LEAST_NAME - 1))
    room = width - used - spark - wide
    name = min(room // 2 if wide else room, max((cell_len(view.name) for view in views), default=0) + 1)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True, width=max(LEAST_NAME, name) - 1)
    for heading in names:
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    table.add_column("loss curve"[:spark], no_wrap=True)
    if wide:
        table.add_column("why", overflow="ellipsis", no_wrap=True, width=max(1, room - max(LEAST_NAME, name)))
    for view, (state, *numbers) in zip(views, cells, strict=True):
        line: list[str | Text] = [
            short(view.name, max(LEAST_NAME, name) - 1),
            Text(state, style=STYLES.get(state, "")),
            *numbers,
        ]
        if off and abs(view.off or 0.0) > SIGMA:
            line[4] = Text(numbers[2], style="red")
        line.append(sparkline(view.curve, spark))
        table.add_row(*line, *([reason_of(view)] if wide else []), style="reverse" if view.run_dir == at else None)
    return table


def short(name: str, width: int) -> str:
    """Return the name of a run in so many columns: of a cell, `d_model=64-seed=1-0f3a` becomes `64-1-0f3a` first."""
    if cell_len(name) > width:
        name = SETTING.sub(r"\1", name)
    return name if cell_len(name) <= width else set_cell_size(name, max(0, width - 1)) + "…"


def _cells(view: RunView, *, off: bool) -> list[str]:
    step = "" if view.step is None else count(view.step) + (f"/{count(view.steps)}" if view.steps else "")
    left = view.seconds_left if view.state == "running" else None
    return [
        view.state,
        step,
        _shown("loss", view.loss),
        *(["" if view.off is None else f"{view.off:+.1f}σ"] if off else []),
        "" if view.tokens_per_second is None else count(view.tokens_per_second),
        _shown("mfu", view.mfu),
        "" if left is None else duration(left),
    ]


def _shown(key: str, value: float | None) -> str:
    return "" if value is None else f"{value:{FORMATS[key]}}"


def reason_of(view: RunView) -> str:
    """Return what there is to say about a run's state."""
    if view.silent_seconds is not None and view.silent_seconds > 120:
        return f"no row for {duration(view.silent_seconds)}; {view.reason}".rstrip("; ")
    return view.reason


def sparkline(values: Sequence[float], most: int = SPARK) -> str:
    """Draw values as bars, at most so many of them, evenly spaced; the lowest as the lowest bar."""
    if not values:
        return ""
    if len(values) > most:
        values = [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)


def headline(views: Sequence[RunView], shown: int, selection: Selection) -> str:
    """Say how many runs there are in each state, what they cost so far, and how they are sorted."""
    if not views:
        return "no runs yet"
    states = Counter(v.state for v in views)
    parts = [", ".join(f"{states[state]} {state}" for state in STATES if states[state])]
    parts[0] += f", {shown} shown" if shown != len(views) else ""
    cost = costs_text(total(view.to_costs() for view in views))
    parts += [cost] if cost else []
    return f"{len(views)} runs: {'; '.join([*parts, f'by {selection.sort}'])}"
