"""Following a Slurm job: from the queue, through its attempts, to how it ended. A silent controller does not end it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from launch.cluster.followed_status import FollowedStatus
from launch.cluster.job import JobState, JobStatus
from launch.cluster.logs import follow_logs
from launch.cluster.slurm.batch_output import batch_output, lines_of
from trainer.contract.attempts import attempts_of
from trainer.contract.run_dir import RunDir

PAUSE_SECONDS = 2.0


class Following:
    """One job that is followed. `output` is the directory of its batch output."""

    def __init__(
        self, job: str, run_dir: Path, output: str, ask: Callable[[], JobStatus], pause: Callable[[float], None]
    ) -> None:
        self.job = job
        self.run_dir = run_dir
        self.output = output
        self.pause = pause
        self.status = FollowedStatus(job, ask)

    def lines(self, rank: int | None) -> Iterator[str]:
        """Yield what the ranks of this job print, and what changes about it, until it has ended."""
        over = self.status.ended()
        while not over and not attempts_of(self.run_dir, self.job):
            yield from self.status.said()
            self.pause(PAUSE_SECONDS)
            over = self.status.ended()
        if attempts_of(self.run_dir, self.job):
            yield from follow_logs(
                lambda: RunDir(self.run_dir).logs(attempts_of(self.run_dir, self.job)[-1]),
                *(rank, self.status.ended, lambda: self.pause(PAUSE_SECONDS), self.status.said),
            )
        elif path := batch_output(self.job, self.run_dir, self.output):
            yield from lines_of(path)
        if self.status.last.state is not JobState.DONE:
            yield self.status.sentence()
