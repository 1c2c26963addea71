"""Run a sweep: submit what is missing, watch it, collect what is done. Running it again goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from launch.cluster.backend import Backend
from launch.cluster.job import JobSpec, JobState, JobStatus
from launch.run.run_state import begin_again, state_of, write_down
from launch.sweep.cells.cell import Cell
from launch.sweep.cells.trunks import from_branch_point
from launch.sweep.ledger.collect import collect
from trainer.checkpoint.search import is_complete
from trainer.config.load import dump
from trainer.contract.run_dir import RunDir, Status, write_atomically
from trainer.plan.plan import Plan

MOST_STARTS = 3  # of one cell by one invocation, when it was preempted


@dataclass
class CellProgress:
    """What is known about one cell while the sweep runs."""

    cell: Cell
    plan: Plan
    run_dir: RunDir
    job: str | None = None
    status: JobStatus | None = None
    starts: int = 0

    @property
    def branch_point(self) -> Path | None:
        """Return the trunk's checkpoint from which this cell goes on, or None for a run of its own."""
        return self.cell.branch.checkpoint(self.run_dir.root.parent) if self.cell.branch else None

    @property
    def share(self) -> float:
        """Return the share of the run's steps that the cell trains itself: a branch only those after it parts."""
        return 1 - self.cell.branch.step / self.plan.steps if self.cell.branch else 1.0

    def lay_out(self) -> None:
        """Make the run's directory and write its configuration: from the branch point where the trunk kept it.

        Without that checkpoint (the trunk ran before it was one) the cell is trained whole: the result is the same.
        """
        self.run_dir.root.mkdir(parents=True, exist_ok=True)
        begin_again(self.run_dir)
        config, point = self.cell.config, self.branch_point
        if point is not None and is_complete(point):
            config = from_branch_point(config, point)
        write_atomically(self.run_dir.config, dump(config))

    @property
    def failure(self) -> str:
        """Return why the run ended badly, from its own record, or from its backend where it left none."""
        state = state_of(self.run_dir)
        if state.word in (Status.FAILED, Status.DIVERGED) or self.status is None:
            return state.reason
        return self.status.reason or state.reason

    @property
    def ended(self) -> Status | None:
        """Return how the run ended, when running it again would change nothing."""
        status = self.run_dir.read_status()
        return status if status in (Status.DONE, Status.DIVERGED) else None

    def due(self, *, retry: bool) -> bool:
        """Return whether a sweep that is run now trains this cell; with `retry`, also where it ended badly before."""
        status = self.run_dir.read_status()
        return status is not Status.DONE and (retry or status not in (Status.FAILED, Status.DIVERGED))


def ready(cells: list[CellProgress], of: list[CellProgress]) -> list[CellProgress]:
    """Return the cells of a sweep that can start: those whose trunk has come to the branch point, or has ended."""
    ended = {p.cell.id for p in of if p.ended is not None}
    return [
        p
        for p in cells
        if p.cell.branch is None
        or p.cell.branch.trunk in ended
        or (p.branch_point is not None and is_complete(p.branch_point))
    ]


@dataclass
class SweepRun:
    """A sweep on a backend. `watch` is called often, with everything that is known."""

    directory: Path
    cells: list[CellProgress]
    backend: Backend
    job: Callable[[str, tuple[str, ...], Path], JobSpec]  # from a cell's name, command and run directory
    watch: Callable[[list[CellProgress]], None]
    wait: Callable[[float], None]
    retry: bool = False  # start cells again that failed or diverged before
    failed: list[CellProgress] = field(default_factory=list)
    waiting: list[CellProgress] = field(default_factory=list)  # for their trunk; for good where that failed

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger.jsonl"

    @property
    def diverged(self) -> list[CellProgress]:
        return [p for p in self.cells if p.ended is Status.DIVERGED]

    def run(self) -> None:
        """Submit all cells that have not ended, and return when every one has ended or failed.

        A branch is submitted when its trunk has come to the branch point, and stays in `waiting` where it never does.
        """
        self._collect()
        for progress in self.cells:
            if progress.due(retry=self.retry):
                begin_again(progress.run_dir)
                self.waiting.append(progress)
            elif progress.run_dir.read_status() is Status.FAILED:
                self.failed.append(progress)
        self._submit_ready()
        while open_cells := [p for p in self.cells if p.job is not None]:
            self._take_in(open_cells)
            self._submit_ready()
            self.watch(self.cells)
            if any(p.job is not None for p in self.cells):
                self.wait(0.5)
        self.watch(self.cells)

    def _submit_ready(self) -> None:
        for progress in ready(self.waiting, self.cells):
            self.waiting.remove(progress)
            self._submit(progress)

    def _submit(self, progress: CellProgress) -> None:
        progress.lay_out()
        progress.starts += 1
        root = progress.run_dir.root
        command = ("-m", "trainer.train", "--run-dir", str(root))
        progress.job = self.backend.submit(self.job(progress.cell.id, command, root))

    def _take_in(self, open_cells: list[CellProgress]) -> None:
        statuses = self.backend.status([p.job for p in open_cells if p.job is not None])
        for progress in open_cells:
            assert progress.job is not None
            progress.status = statuses[progress.job]
            if progress.status.state.final:
                progress.job = None
                self._ended(progress, progress.status)

    def _ended(self, progress: CellProgress, status: JobStatus) -> None:
        if status.state is JobState.PREEMPTED and progress.starts < MOST_STARTS:
            self._submit(progress)
        else:
            write_down(progress.run_dir, status)
            if progress.ended is None:
                self.failed.append(progress)
        self._collect()

    def _collect(self) -> None:
        collect(self.cells, self.ledger)
