"""Following a Slurm job: from the queue, through its attempts, to how it ended. A silent controller does not end it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from launch.cluster.job import JobState, JobStatus
from launch.cluster.logs import follow_logs
from launch.cluster.slurm.batch_output import batch_output, lines_of
from trainer.contract.attempts import attempts_of
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir

PAUSE_SECONDS = 2.0


@dataclass
class Following:
    """One job that is followed. `ask` returns its status; a UserError says that there was no answer now."""

    job: str
    run_dir: Path
    output: str  # directory of its batch output
    ask: Callable[[], JobStatus]
    pause: Callable[[float], None]
    _last: JobStatus = field(default_factory=lambda: JobStatus(JobState.PENDING))
    _notes: list[str] = field(default_factory=list)

    def lines(self, rank: int | None) -> Iterator[str]:
        """Yield what the ranks of this job print, and what changes about it, until it has ended."""
        over = self._ended()
        while not over and not attempts_of(self.run_dir, self.job):
            yield from self._said()
            self.pause(PAUSE_SECONDS)
            over = self._ended()
        if attempts_of(self.run_dir, self.job):
            yield from follow_logs(
                lambda: RunDir(self.run_dir).logs(attempts_of(self.run_dir, self.job)[-1]),
                *(rank, self._ended, lambda: self.pause(PAUSE_SECONDS), self._said),
            )
        elif path := batch_output(self.job, self.run_dir, self.output):
            yield from lines_of(path)
        if self._last.state is not JobState.DONE:
            yield self._sentence()

    def _ended(self) -> bool:
        try:
            status = self.ask()
        except UserError as error:
            status = JobStatus(JobState.UNKNOWN, reason=str(error))
        changed = (status.state, status.reason) != (self._last.state, self._last.reason)
        self._last = status
        if changed and not status.state.final:
            self._notes.append(self._sentence())
        return status.state.final

    def _said(self) -> list[str]:
        said, self._notes = self._notes, []
        return said

    def _sentence(self) -> str:
        return f"job {self.job} is {self._last.state.value}" + (f": {self._last.reason}" if self._last.reason else "")
