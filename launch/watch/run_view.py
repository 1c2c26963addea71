"""What a person wants to know of a run at a glance, from its small files and from the ends of the large ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.run.newest_step import newest_step
from launch.run.off_course import left_band, unlike_expected
from launch.run.run_state import state_of
from launch.watch.curve import Curve, Point
from launch.watch.find_runs import sweep_of
from trainer.contract.errors import os_error_text
from trainer.contract.plain_json import DamagedFileError, read_object
from trainer.contract.run_dir import RunDir
from trainer.observe.metrics import COSTS

SPARK_POINTS = 24  # of a curve that is drawn in one line
LIVE = ("running",)


@dataclass(frozen=True)
class Planned:
    """What the plan says of a run, as far as it is known."""

    steps: int | None = None
    tokens_per_step: int | None = None
    parameters: int | None = None  # distinct ones
    flops_per_token: float | None = None  # forward and backward


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
    tokens: int | None = None
    loss: float | None = None
    off: float | None = None  # standard deviations from the expected curve, where the run has one
    tokens_per_second: float | None = None
    mfu: float | None = None
    seconds_left: float | None = None
    gpu_seconds: float | None = None
    core_seconds: float | None = None
    cost: float | None = None
    energy_joules: float | None = None
    goodput: float | None = None
    silent_seconds: float | None = None  # since the last row, of a run that runs
    points: tuple[Point, ...] = ()  # of its loss, evenly spaced over the record
    planned: Planned = Planned()

    @property
    def curve(self) -> tuple[float, ...]:
        """The losses of the points."""
        return tuple(point.loss for point in self.points)

    def to_costs(self) -> dict[str, object]:
        """Return what the run cost so far, under the keys of its record."""
        return {key: getattr(self, key) for key in COSTS}

    def to_json(self) -> dict[str, object]:
        """Return plain values for scripts."""
        values = asdict(self)
        del values["points"], values["planned"]
        return {**values, "curve": self.curve}


Stamp = tuple[int, ...]


class Reader:
    """Reads runs again and again, those that `find` returns now. What did not change is not read again.

    A curve has some `points` points; with `early`, a few more at its beginning, for a logarithmic axis.
    """

    def __init__(self, find: Callable[[], Sequence[Path]], points: int = SPARK_POINTS, *, early: bool = False) -> None:
        self._find, self.points, self.early = find, points, early
        self._known: dict[Path, tuple[Stamp, RunView]] = {}
        self._curves: dict[Path, Curve] = {}
        self._plans: dict[Path, tuple[Stamp, Planned]] = {}

    def views(self) -> list[RunView]:
        """Return all runs as they are now. Raises `UserError` where `find` does."""
        return [self._view(run) for run in self._find()]

    def _view(self, run: Path) -> RunView:
        stamp = _stamp(run / "status", run / "metrics.jsonl", run / "events.jsonl", run / "run.json")
        known = self._known.get(run)
        if known is not None and known[0] == stamp and known[1].state not in LIVE:
            return known[1]
        try:
            view = self._read(run, known[1].points if known is not None and known[0] == stamp else None)
        except OSError as error:  # no reason to hide the others
            view = RunView(run.name, sweep_of(run), str(run), "unknown", os_error_text(error))
        self._known[run] = (stamp, view)
        return view

    def _read(self, run: Path, points: tuple[Point, ...] | None) -> RunView:
        run_dir = RunDir(run)
        state, row = state_of(run_dir), newest_step(run_dir) or {}
        planned = self._planned(run_dir.plan)
        numbers: dict[str, Any] = {k: value for k in _ROW_KEYS if isinstance(value := row.get(k), int | float)}
        return RunView(
            run.name,
            sweep_of(run),
            str(run),
            state.word,
            state.reason
            if state.word in ENDED_BADLY
            else left_band(run_dir) or "; ".join(filter(None, (state.reason, unlike_expected(run_dir)))),
            steps=planned.steps,
            silent_seconds=_age(run_dir.metrics) if state.word in LIVE else None,
            points=self._curve(run_dir.metrics).read() if points is None else points,
            planned=planned,
            **numbers,
        )

    def _curve(self, metrics: Path) -> Curve:
        if metrics not in self._curves:
            self._curves[metrics] = Curve(metrics, self.points, early=self.early)
        return self._curves[metrics]

    def _planned(self, plan: Path) -> Planned:
        """Return what is in a plan, which is large and hardly ever changes."""
        stamp = _stamp(plan)
        if plan not in self._plans or self._plans[plan][0] != stamp:
            self._plans[plan] = (stamp, _read_plan(plan))
        return self._plans[plan][1]


ENDED_BADLY = ("failed", "dead", "diverged")  # why is then graver than a band that was left
_ROW_KEYS = (
    "step", "tokens", "loss", "off", "tokens_per_second", "mfu", "seconds_left", "gpu_seconds", "core_seconds",
    "cost", "energy_joules", "goodput",
)  # fmt: skip


def _read_plan(plan: Path) -> Planned:
    try:
        values = read_object(plan)
    except (FileNotFoundError, DamagedFileError):
        return Planned()
    whole = {key: value for key in ("steps", "tokens_per_step") if isinstance(value := values.get(key), int)}
    return Planned(
        **whole,
        parameters=_total(values.get("parameters")),
        flops_per_token=_total(values.get("flops_per_token")),
    )


def _total(parts: object) -> int | None:
    found = parts.get("total") if isinstance(parts, dict) else None
    return found if isinstance(found, int) else None


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
