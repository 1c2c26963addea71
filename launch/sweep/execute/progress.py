"""What a sweep shows while it runs: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from launch.cluster.job import JobState
from launch.show.text import count
from launch.sweep.execute.run import CellProgress
from trainer.contract.durations import duration
from trainer.contract.plain_json import NON_FINITE, DamagedFileError, parse_line, read_object
from trainer.contract.run_dir import Status

LINE_EVERY = 10.0  # seconds between lines where there is no terminal
TAIL_BYTES = 8192
HUGE = 1e9  # a perplexity after a run went wrong has 300 digits


def last_step(metrics: Path) -> dict[str, Any] | None:
    """Return the newest row of training, from the end of the file alone."""
    if not metrics.exists():
        return None
    with metrics.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        lines = file.read().split(b"\n")
    for line in reversed(lines[:-1]):
        row = parse_line(line)
        if row is not None and row.get("kind") == "train" and isinstance(row.get("step"), int) and "loss" in row:
            return row
    return None


@dataclass
class Watcher:
    """Shows a sweep. Call `update` as often as you like."""

    console: Console
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

    def update(self, cells: list[CellProgress]) -> None:
        """Show the state of all cells now."""
        rows = [(progress, last_step(progress.run_dir.metrics)) for progress in cells]
        if self.live is not None:
            self.live.update(self._table(rows))
            return
        for progress, row in rows:
            self._tell_changes(progress, row)
        if self.clock() >= self._next_line:
            self._next_line = self.clock() + LINE_EVERY
            for progress, row in rows:
                if state_of(progress) == "running" and row is not None:
                    self.console.print(f"  {progress.cell.id}: {_step_text(progress, row)}", highlight=False)
            self.console.print(f"  {self._summary(rows)}", highlight=False)

    def _tell_changes(self, progress: CellProgress, row: dict[str, Any] | None) -> None:
        state = state_of(progress)
        if self._told.get(progress.cell.id) == state:
            return
        self._told[progress.cell.id] = state
        if state != "waiting" and progress.status is not None:  # a cell without one had ended before
            detail = _step_text(progress, row) if row is not None else ""
            detail = _result_text(progress) if state == Status.DONE.value else detail
            self.console.print(f"{progress.cell.id}: {state} {detail}".rstrip(), highlight=False)

    def _table(self, rows: list[tuple[CellProgress, dict[str, Any] | None]]) -> Table:
        table = Table(caption=self._summary(rows), caption_justify="left", box=None, pad_edge=False)
        for name in ("cell", "state", "step", "training loss", "tokens/s"):
            table.add_column(name, justify="left" if name in ("cell", "state") else "right", no_wrap=True)
        for progress, row in rows:
            state = state_of(progress)
            values = [f"{row['step']}/{progress.plan.steps}", loss_text(row)] if row else ["", ""]
            rate = row.get("tokens_per_second") if row else None
            style = {"running": "bold", "failed": "red", "diverged": "red", "waiting": "dim"}.get(state, "green")
            table.add_row(progress.cell.id, state, *values, f"{rate:,.0f}" if rate else "", style=style)
        return table

    def _summary(self, rows: list[tuple[CellProgress, dict[str, Any] | None]]) -> str:
        done = sum(1 for progress, _ in rows if progress.ended is not None)
        return f"{done} of {len(rows)} cells ended, about {duration(self._remaining(rows))} left"

    def _remaining(self, rows: list[tuple[CellProgress, dict[str, Any] | None]]) -> float:
        """Estimate what is left: running cells say it themselves, and correct the estimates of those that wait."""
        told: list[float] = []
        waiting: list[float] = []
        estimated = 0.0
        for progress, row in rows:
            done = row["step"] / progress.plan.steps if row else 0.0
            estimate = self.expected.get(progress.cell.id, 0.0) * (1 - done)
            if row and row.get("seconds_left") is not None and state_of(progress) == "running":
                told.append(row["seconds_left"])
                estimated += estimate
            elif progress.ended is None:
                waiting.append(estimate)
        if estimated > 0:
            self.pace = sum(told) / estimated
        return spread_over([*told, *(self.pace * seconds for seconds in waiting)], self.at_a_time)


def spread_over(seconds: list[float], at_a_time: int) -> float:
    """Return how long runs of these seconds take so many at a time: never less than the longest of them."""
    return max(sum(seconds) / at_a_time, *seconds) if seconds else 0.0


def state_of(progress: CellProgress) -> str:
    """Return one word for a cell."""
    if progress.ended is not None:
        return progress.ended.value
    if progress.status is None:
        return "waiting"
    return {JobState.PENDING: "waiting"}.get(progress.status.state, progress.status.state.value)


def _step_text(progress: CellProgress, row: dict[str, Any]) -> str:
    rate = row.get("tokens_per_second")
    speed = f", {count(rate)} tokens/s" if rate else ""
    return f"step {row['step']}/{progress.plan.steps}, training loss {loss_text(row)}{speed}"


def loss_text(row: dict[str, Any]) -> str:
    """Return the loss of a row of metrics, or the word for what it was instead of a number."""
    if isinstance(row["loss"], int | float):
        return f"{row['loss']:.4f}"
    return str((row.get(NON_FINITE) or {}).get("loss", "unknown"))


def _result_text(progress: CellProgress) -> str:
    """Say what came out: the loss that goes into the ledger, not that of the last batch."""
    try:
        first = read_object(progress.run_dir.result, "evaluations")["evaluations"][0]
        perplexity = first["perplexity"]
        shown = f"{perplexity:.2f}" if perplexity < HUGE else f"{perplexity:.3g}"
        return f"validation loss {first['loss']:.4f}, perplexity {shown}"
    except (DamagedFileError, FileNotFoundError, LookupError, TypeError, ValueError):
        return "(its result cannot be read)"
