"""What a person wants to know of a run at a glance, from its small files and from the ends of the large ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.run.newest_step import newest_step
from launch.run.run_state import state_of
from launch.watch.find_runs import sweep_of
from trainer.contract.errors import os_error_text
from trainer.contract.plain_json import DamagedFileError, parse_line, read_object
from trainer.contract.run_dir import RunDir

POINTS = 12  # of a curve
ROW_BYTES = 4096  # that hold a whole row, wherever one begins to read
LIVE = ("running",)


@dataclass(frozen=True)
class RunView:
    """One run. Numbers are None where the run has not recorded them; times are in seconds."""

    name: str
    sweep: str
    run_dir: str
    state: str
    reason: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    seconds_left: float | None = None
    gpu_seconds: float | None = None
    goodput: float | None = None
    silent_seconds: float | None = None  # since the last row, of a run that runs
    curve: tuple[float, ...] = ()  # losses, evenly spaced over the record
    off: float | None = None  # standard deviations above the expected curve

    def to_json(self) -> dict[str, object]:
        """Return plain values for scripts."""
        return asdict(self)


Stamp = tuple[int, ...]


class Reader:
    """Reads runs again and again. What did not change since the last time is not read again."""

    def __init__(self, runs: Sequence[Path]) -> None:
        self.runs = tuple(runs)
        self._known: dict[Path, tuple[Stamp, RunView]] = {}
        self._steps: dict[Path, tuple[Stamp, int | None]] = {}

    def views(self) -> list[RunView]:
        """Return all runs as they are now."""
        return [self._view(run) for run in self.runs]

    def _view(self, run: Path) -> RunView:
        stamp = _stamp(run / "status", run / "metrics.jsonl", run / "events.jsonl", run / "run.json")
        known = self._known.get(run)
        if known is not None and known[0] == stamp and known[1].state not in LIVE:
            return known[1]
        try:
            view = self._read(run, known[1].curve if known is not None and known[0] == stamp else None)
        except OSError as error:  # no reason to hide the others
            view = RunView(run.name, sweep_of(run), str(run), "unknown", os_error_text(error))
        self._known[run] = (stamp, view)
        return view

    def _read(self, run: Path, curve: tuple[float, ...] | None) -> RunView:
        run_dir = RunDir(run)
        state, row = state_of(run_dir), newest_step(run_dir) or {}
        silent = _age(run_dir.metrics) if state.word in LIVE else None
        number: dict[str, Any] = {key: value for key in _ROW_KEYS if isinstance(value := row.get(key), int | float)}
        return RunView(
            run.name, sweep_of(run), str(run), state.word, state.reason, steps=self._planned(run_dir.plan),
            silent_seconds=silent, curve=sampled_losses(run_dir.metrics) if curve is None else curve, **number,
        )  # fmt: skip

    def _planned(self, plan: Path) -> int | None:
        """Return the steps of a plan, which is large and hardly ever changes."""
        stamp = _stamp(plan)
        if plan not in self._steps or self._steps[plan][0] != stamp:
            try:
                steps = read_object(plan, "steps")["steps"]
            except (FileNotFoundError, DamagedFileError):
                steps = None
            self._steps[plan] = (stamp, steps if isinstance(steps, int) else None)
        return self._steps[plan][1]


_ROW_KEYS = ("step", "loss", "off", "tokens_per_second", "mfu", "seconds_left", "gpu_seconds", "goodput")


def sampled_losses(metrics: Path, points: int = POINTS) -> tuple[float, ...]:
    """Return losses of training from evenly spaced places of a record, in order, without reading what is between."""
    found: list[float] = []
    try:
        file = metrics.open("rb")
    except OSError:
        return ()
    with file:
        size = file.seek(0, 2)
        for index in range(points):
            at = size * index // points
            file.seek(at)
            lines = file.read(ROW_BYTES).split(b"\n")
            rows = (parse_line(line) for line in (lines[1:-1] if at else lines[:-1]))
            losses = (row.get("loss") for row in rows if row is not None and row.get("kind") == "train")
            if isinstance(loss := next(losses, None), int | float):
                found.append(float(loss))
    return tuple(found)


def _stamp(*paths: Path) -> Stamp:
    """Return what changes when one of these files does."""
    found: list[int] = []
    for path in paths:
        try:
            stat = path.stat()
            found += [stat.st_mtime_ns, stat.st_size]
        except OSError:
            found += [0, 0]
    return tuple(found)


def _age(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None
