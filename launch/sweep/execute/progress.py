"""What a sweep shows while it runs: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from launch.cluster.job import JobState
from launch.run.newest_step import newest_step
from launch.show.text import count
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.execute.decide import Seen
from trainer.contract.durations import duration
from trainer.contract.plain_json import NON_FINITE, DamagedFileError, read_object
from trainer.contract.run_dir import Status

LINE_EVERY = 10.0  # seconds between lines where there is no terminal
HUGE = 1e9  # a perplexity after a run went wrong has 300 digits


@dataclass(frozen=True)
class Shown:
    """A cell as it is shown: how it stands, and its newest step."""

    of: PlannedCell
    seen: Seen
    row: dict[str, Any] | None

    @property
    def ended(self) -> bool:
        """Whether running it again would change nothing."""
        return self.seen.status in (Status.DONE, Status.DIVERGED)

    @property
    def state(self) -> str:
        """Return one word."""
        status, job = self.seen.status, self.seen.job
        if status in (Status.DONE, Status.DIVERGED) or (status is Status.FAILED and not self.seen.starts):
            return str(status)
        return "waiting" if not self.seen.starts or job is None or job.state is JobState.PENDING else str(job.state)

    @property
    def step_text(self) -> str:
        """Return how far it is, and how fast; "" before its first step."""
        if self.row is None:
            return ""
        rate = self.row.get("tokens_per_second")
        speed = f", {count(rate)} tokens/s" if rate else ""
        return f"step {self.row['step']}/{self.of.plan.steps}, training loss {loss_text(self.row)}{speed}"


@dataclass
class Watcher:
    """Shows a sweep. Call `update` as often as you like."""

    console: Console
    cells: Sequence[PlannedCell]
    expected: dict[str, float]  # cell -> estimated seconds
    at_a_time: int = 1  # cells that run side by side
    pace: float = 1.0  # how long cells take against their estimates, as far as is known
    clock: Callable[[], float] = time.monotonic
    live: Live | None = None
    _told: dict[str, str] = field(default_factory=dict)
    _next_line: float = 0.0

    def __enter__(self) -> Watcher:
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4)
            self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.live is not None:
            self.live.__exit__(*error)

    def update(self, seen: Sequence[Seen]) -> None:
        """Show how all cells stand."""
        by_id = {one.cell: one for one in seen}
        rows = [Shown(one, by_id[one.id], newest_step(one.run_dir)) for one in self.cells]
        if self.live is not None:
            self.live.update(self._table(rows))
            return
        for row in rows:
            self._tell_changes(row)
        if self.clock() >= self._next_line:
            self._next_line = self.clock() + LINE_EVERY
            for row in rows:
                if row.state == "running" and row.row is not None:
                    self.console.print(f"  {row.of.id}: {row.step_text}", highlight=False)
            self.console.print(f"  {self._summary(rows)}", highlight=False)

    def _tell_changes(self, shown: Shown) -> None:
        state = shown.state
        if self._told.get(shown.of.id) == state:
            return
        self._told[shown.of.id] = state
        if state != "waiting" and shown.seen.starts:  # others had ended before
            detail = _result_text(shown.of) if state == Status.DONE.value else shown.step_text
            self.console.print(f"{shown.of.id}: {state} {detail}".rstrip(), highlight=False)

    def _table(self, rows: list[Shown]) -> Table:
        table = Table(caption=self._summary(rows), caption_justify="left", box=None, pad_edge=False)
        for name in ("cell", "state", "step", "training loss", "tokens/s"):
            table.add_column(name, justify="left" if name in ("cell", "state") else "right", no_wrap=True)
        for shown in rows:
            row, state = shown.row, shown.state
            values = [f"{row['step']}/{shown.of.plan.steps}", loss_text(row)] if row else ["", ""]
            rate = row.get("tokens_per_second") if row else None
            style = {"running": "bold", "failed": "red", "diverged": "red", "waiting": "dim"}.get(state, "green")
            table.add_row(shown.of.id, state, *values, f"{rate:,.0f}" if rate else "", style=style)
        return table

    def _summary(self, rows: list[Shown]) -> str:
        done = sum(1 for shown in rows if shown.ended)
        return f"{done} of {len(rows)} cells ended, about {duration(self._remaining(rows))} left"

    def _remaining(self, rows: list[Shown]) -> float:
        """Estimate what is left: running cells say it themselves, and correct the estimates of those that wait."""
        told: list[float] = []
        waiting: list[float] = []
        estimated = 0.0
        for shown in rows:
            row = shown.row
            done = row["step"] / shown.of.plan.steps if row else 0.0
            estimate = self.expected.get(shown.of.id, 0.0) * (1 - done)
            if row and row.get("seconds_left") is not None and shown.state == "running":
                told.append(row["seconds_left"])
                estimated += estimate
            elif not shown.ended:
                waiting.append(estimate)
        if estimated > 0:
            self.pace = sum(told) / estimated
        return spread_over([*told, *(self.pace * seconds for seconds in waiting)], self.at_a_time)


def spread_over(seconds: list[float], at_a_time: int) -> float:
    """Return how long runs of these seconds take so many at a time: never less than the longest of them."""
    return max(sum(seconds) / at_a_time, *seconds) if seconds else 0.0


def loss_text(row: dict[str, Any]) -> str:
    """Return the loss of a row of metrics, or the word for what it was instead of a number."""
    if isinstance(row["loss"], int | float):
        return f"{row['loss']:.4f}"
    return str((row.get(NON_FINITE) or {}).get("loss", "unknown"))


def _result_text(one: PlannedCell) -> str:
    """Say what came out: the loss that goes into the ledger, not that of the last batch."""
    try:
        first = read_object(one.run_dir.result, "evaluations")["evaluations"][0]
        perplexity = first["perplexity"]
        shown = f"{perplexity:.2f}" if perplexity < HUGE else f"{perplexity:.3g}"
        return f"validation loss {first['loss']:.4f}, perplexity {shown}"
    except (DamagedFileError, FileNotFoundError, LookupError, TypeError, ValueError):
        return "(its result cannot be read)"
