"""A sweep on the bench: its sizes, what was tried of each knob by the ledger, and which runs come next.

The ledger is all that is remembered, so a tuning that was interrupted goes on with the same runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from launch.scaling.tune.decide import Next, Size, Spending, next_runs
from launch.scaling.tune.knobs import KNOBS, WORDS, Knob
from launch.sweep.cells.cell import Cell
from launch.sweep.cells.knobs import FEWEST_STEPS, Start
from launch.sweep.cells.tuning import cells_at, tried
from launch.sweep.execute.opened import Opened
from launch.sweep.ledger import ledger

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One size in the tuning of one knob. `place`: on the bench; `fixed`: the knobs tuned before, at their best."""

    place: int
    size: Size
    fixed: Mapping[Knob, float]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Stage:
    """The tuning of one knob, at the sizes where the knobs before it are tuned."""

    knob: Knob
    entries: tuple[Entry, ...]

    @property
    def sizes(self) -> list[Size]:
        """Return its sizes with what was tried."""
        return [entry.size for entry in self.entries]


@dataclass(frozen=True)
class Step:
    """The runs to be made now, all of one stage. `stopped`: what the budget leaves undone."""

    stage: Stage
    runs: tuple[tuple[int, float], ...]  # places among the stage's entries, with the octaves to be tried
    stopped: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """A sweep that is being tuned: its chosen sizes, smallest first, and what all its cells cost."""

    opened: Opened
    starts: tuple[Start, ...]
    sizes: tuple[Size, ...]  # as the learning rate is tuned there
    others: tuple[str, ...]
    flops: float
    knobs: tuple[Knob, ...]
    spending: Spending

    def stages(self) -> list[Stage]:
        """Return the tuning of each knob as far as the ledger tells."""
        rows = list(ledger.read(self.opened.directory / "ledger.jsonl"))
        fixed: dict[int, dict[Knob, float]] = {k: {} for k in range(len(self.sizes))}
        found = []
        for knob in (knob for knob in KNOBS if knob in self.knobs):
            stage = Stage(knob, tuple(self._entry(knob, k, values, rows) for k, values in fixed.items()))
            found.append(stage)
            fixed = {entry.place: self._fixed(knob, entry) for entry in stage.entries if self._goes_on(knob, entry)}
        return found

    def next_step(self) -> Step:
        """Return the runs to be made now; none where every knob is tuned or the budget is spent."""
        stages, stopped = self.stages(), []
        spent = sum(size.spent for stage in stages for size in stage.sizes)
        for stage in stages:
            own = sum(size.spent for size in stage.sizes)
            step: Next = next_runs(stage.sizes, replace(self.spending, elsewhere=spent - own))
            if step.stopped:
                stopped.append(f"{WORDS[stage.knob]}: {step.stopped}")
            if step.runs:
                return Step(stage, step.runs, tuple(stopped))
        return Step(stages[-1], (), tuple(stopped))

    def cells(self, step: Step) -> list[Cell]:
        """Return the cells of the runs of a step."""
        stage, opened = step.stage, self.opened
        return cells_at(opened.sweep, [self._values(stage, *run) for run in step.runs], knob=stage.knob, gpu=opened.gpu)

    def lines(self, step: Step) -> list[str]:
        """Say what comes next, a line for each run, and what the budget leaves undone."""
        said, knob = [], step.stage.knob
        for number, x in step.runs:
            entry = step.stage.entries[number]
            start, size = self.starts[entry.place], entry.size
            value = size.own * 2**x if knob == "lr" else start.value(knob, x)
            said.append(f"next: {size.name}: {WORDS[knob]} {int(value) if knob == 'batch' else f'{value:.3g}'}")
        return [*said, *step.stopped]

    def _entry(self, knob: Knob, place: int, fixed: Mapping[Knob, float], rows: list[dict[str, Any]]) -> Entry:
        start, size = self.starts[place], self.sizes[place]
        trials = tried(self.opened.sweep, start, knob, fixed, rows, gpu=self.opened.gpu)
        changes: dict[str, Any] = {"tried": tuple(trial for trial, _ in trials), "bracket": start.bracket(knob)}
        if knob != "lr":
            changes["own"] = start.own[knob]
        if knob == "batch" or "batch" in fixed:  # tokens are rounded up to whole steps
            changes["flops"] = size.flops * (1 + 1 / FEWEST_STEPS)
        changes["batch"] = fixed.get("batch", size.batch)
        size = replace(size, **changes)
        diverged = [float(row["flops_exact"]) for _, row in trials if row.get("status") != "done"]
        saved = sum(max(size.flops - flops, 0.0) for flops in diverged)
        return Entry(place, replace(size, saved=saved), fixed, tuple(row for _, row in trials))

    def _goes_on(self, knob: Knob, entry: Entry) -> bool:
        """Whether the knobs after this one may be tuned there: it is done, and a learning rate is tuned."""
        if entry.size.next_values(0.0, self.spending.most):
            return False
        best = entry.size.found()
        return knob != "lr" or (best is not None and not best.problem)

    def _fixed(self, knob: Knob, entry: Entry) -> dict[Knob, float]:
        """Return the values at which knobs stay for the next: one without an optimum at the sweep's own."""
        best = entry.size.found()
        if best is None or best.problem:
            return dict(entry.fixed)
        return {**entry.fixed, knob: self.starts[entry.place].fixed(knob, best.x)}

    def _values(self, stage: Stage, number: int, x: float) -> dict[str, Any]:
        entry = stage.entries[number]
        start = self.starts[entry.place]
        return start.settings_at({**entry.fixed, stage.knob: start.value(stage.knob, x)})
