"""The table of runs: which are shown, in which order, and how they look at 80 columns and wider."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rich.table import Table
from rich.text import Text

from launch.show.text import count
from launch.watch.run_view import RunView
from trainer.contract.durations import duration
from trainer.observe.metrics import FORMATS

WIDE = 110  # characters, from which on the reason has a column
BARS = "▁▂▃▄▅▆▇█"
# States, those first that somebody must look after.
STATES = ("failed", "dead", "diverged", "unknown", "running", "preempted", "pending", "waiting", "done")
_STYLES = {"failed": "red", "dead": "red", "diverged": "red", "unknown": "yellow", "running": "cyan", "done": "green"}
_LARGEST = float("inf")
T = TypeVar("T")


def _or_last(value: float | None, *, descending: bool = False) -> float:
    if value is None:
        return _LARGEST
    return -value if descending else value


SORTS: dict[str, Callable[[RunView], tuple[float | str, ...]]] = {
    "state": lambda v: (STATES.index(v.state) if v.state in STATES else 0, v.sweep, v.name),
    "name": lambda v: (v.sweep, v.name),
    "step": lambda v: (_or_last(v.step, descending=True), v.name),
    "loss": lambda v: (_or_last(v.loss), v.name),
    "speed": lambda v: (_or_last(v.tokens_per_second, descending=True), v.name),
    "mfu": lambda v: (_or_last(v.mfu, descending=True), v.name),
    "left": lambda v: (_or_last(v.seconds_left), v.name),
    "cost": lambda v: (_or_last(v.gpu_seconds, descending=True), v.name),
}


@dataclass(frozen=True)
class Selection:
    """Which runs are shown, in which order, from which one on."""

    sort: str = "state"
    state: str | None = None
    first: int = 0

    def of(self, views: Sequence[RunView]) -> list[RunView]:
        """Return the runs that are shown, in order."""
        return sorted((v for v in views if self.state in (None, v.state)), key=SORTS[self.sort])

    def next_sort(self) -> Selection:
        """Sort by the next key."""
        return replace(self, sort=_after(tuple(SORTS), self.sort))

    def next_state(self, views: Sequence[RunView]) -> Selection:
        """Show the runs of the next state that any has; after the last, all."""
        present: list[str | None] = [None, *(state for state in STATES if any(v.state == state for v in views))]
        return replace(self, state=_after(present, self.state), first=0)

    def scrolled(self, lines: int, total: int) -> Selection:
        """Begin so many runs further down."""
        return replace(self, first=max(0, min(self.first + lines, total - 1)))


def _after(values: Sequence[T], value: T) -> T:
    return values[(values.index(value) + 1) % len(values)] if value in values else values[0]


def run_table(views: Sequence[RunView], width: int) -> Table:
    """Return one line for each run. It fits 80 columns; from 110 on the reason of a state is shown too."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True, overflow="ellipsis", ratio=1, min_width=12)
    table.add_column("state", no_wrap=True)
    followed = any(view.off is not None for view in views)  # no run without an expected curve pays for its column
    for name in ("step", "loss", *(["off"] if followed else []), "tok/s", "MFU", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("loss curve", no_wrap=True)
    if width >= WIDE:
        table.add_column("why", overflow="ellipsis", no_wrap=True, ratio=1)
    for view in views:
        table.add_row(*_cells(view, followed=followed, wide=width >= WIDE))
    return table


def _cells(view: RunView, *, followed: bool, wide: bool) -> list[str | Text]:
    step = "" if view.step is None else count(view.step) + (f"/{count(view.steps)}" if view.steps else "")
    left = view.seconds_left if view.state == "running" else None
    cells: list[str | Text] = [
        view.name,
        Text(view.state, style=_STYLES.get(view.state, "")),
        step,
        _shown("loss", view.loss),
        *([_shown("off", view.off)] if followed else []),
        "" if view.tokens_per_second is None else count(view.tokens_per_second),
        _shown("mfu", view.mfu),
        "" if left is None else duration(left),
        sparkline(view.curve),
    ]
    return [*cells, reason_of(view)] if wide else cells


def _shown(key: str, value: float | None) -> str:
    return "" if value is None else f"{value:{FORMATS[key]}}"


def reason_of(view: RunView) -> str:
    """Return what there is to say about a run's state."""
    if view.silent_seconds is not None and view.silent_seconds > 120:
        return f"no row for {duration(view.silent_seconds)}; {view.reason}".rstrip("; ")
    return view.reason


def sparkline(values: Sequence[float]) -> str:
    """Draw values as bars, the lowest as the lowest bar."""
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)


def headline(views: Sequence[RunView], shown: int, selection: Selection) -> str:
    """Say how many runs there are in each state, what they cost so far, and how they are sorted."""
    states = Counter(v.state for v in views)
    parts = [f"{states[state]} {state}" for state in STATES if states[state]]
    hours = sum(v.gpu_seconds or 0.0 for v in views) / 3600
    which = f", {shown} shown" if shown != len(views) else ""
    return f"{len(views)} runs: {', '.join(parts)}{which}; {hours:,.1f} GPU-hours; by {selection.sort}"
