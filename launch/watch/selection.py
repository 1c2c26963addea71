"""Which runs are shown, in which order, and which of them is pointed at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from launch.watch.run_view import RunView

# States, those first that somebody must look after.
STATES = ("failed", "dead", "diverged", "unknown", "running", "preempted", "pending", "waiting", "done")
_LARGEST = float("inf")
T = TypeVar("T")


def _or_last(value: float | None, *, descending: bool = False) -> float:
    if value is None:
        return _LARGEST
    return -value if descending else value


def _spent(view: RunView) -> float | None:
    return view.core_seconds if view.gpu_seconds is None else view.gpu_seconds


SORTS: dict[str, Callable[[RunView], tuple[float | str, ...]]] = {
    "state": lambda v: (STATES.index(v.state) if v.state in STATES else 0, v.sweep, v.name),
    "name": lambda v: (v.sweep, v.name),
    "step": lambda v: (_or_last(v.step, descending=True), v.name),
    "loss": lambda v: (_or_last(v.loss), v.name),
    "off": lambda v: (_or_last(None if v.off is None else abs(v.off), descending=True), v.name),
    "speed": lambda v: (_or_last(v.tokens_per_second, descending=True), v.name),
    "mfu": lambda v: (_or_last(v.mfu, descending=True), v.name),
    "left": lambda v: (_or_last(v.seconds_left), v.name),
    "cost": lambda v: (_or_last(_spent(v), descending=True), v.name),
}


@dataclass(frozen=True)
class Selection:
    """Which runs are shown, in which order, and the directory of the one that is pointed at."""

    sort: str = "state"
    state: str | None = None
    text: str = ""  # in the name of the run or its sweep
    at: str | None = None

    def of(self, views: Sequence[RunView]) -> list[RunView]:
        """Return the runs that are shown, in order."""
        word = self.text.lower()
        meant = (v for v in views if self.state in (None, v.state) and word in f"{v.sweep}/{v.name}".lower())
        return sorted(meant, key=SORTS[self.sort])

    def next_sort(self) -> Selection:
        """Sort by the next key."""
        return replace(self, sort=_after(tuple(SORTS), self.sort))

    def next_state(self, views: Sequence[RunView]) -> Selection:
        """Show the runs of the next state that any has; after the last, all."""
        present: list[str | None] = [None, *(state for state in STATES if any(v.state == state for v in views))]
        return replace(self, state=_after(present, self.state))

    def index(self, shown: Sequence[RunView]) -> int:
        """Return the place of the run that is pointed at among those that are shown; the first where it is not."""
        return next((index for index, view in enumerate(shown) if view.run_dir == self.at), 0)

    def moved(self, lines: int, shown: Sequence[RunView]) -> Selection:
        """Point at a run so many lines further down, the first or the last at most."""
        if not shown:
            return self
        index = max(0, min(self.index(shown) + lines, len(shown) - 1))
        return replace(self, at=shown[index].run_dir)


def _after(values: Sequence[T], value: T) -> T:
    return values[(values.index(value) + 1) % len(values)] if value in values else values[0]
