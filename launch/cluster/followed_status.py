"""How a job stands while somebody follows it: what changes is told, and a scheduler that is silent does not end it."""

from __future__ import annotations

from collections.abc import Callable

from launch.cluster.job import JobState, JobStatus
from trainer.contract.errors import UserError


class FollowedStatus:
    """The status of one job. `ask` returns it; a UserError says that there was no answer now."""

    def __init__(self, job: str, ask: Callable[[], JobStatus]) -> None:
        self.job = job
        self.ask = ask
        self.last = JobStatus(JobState.PENDING)
        self._notes: list[str] = []

    def ended(self) -> bool:
        """Ask, and tell whether the job has ended."""
        try:
            status = self.ask()
        except UserError as error:
            status = JobStatus(JobState.UNKNOWN, reason=str(error))
        changed = (status.state, status.reason) != (self.last.state, self.last.reason)
        self.last = status
        if changed and not status.state.final:
            self._notes.append(self.sentence())
        return status.state.final

    def said(self) -> list[str]:
        """Return what has changed since this was last called."""
        said, self._notes = self._notes, []
        return said

    def sentence(self) -> str:
        """Say how the job stood when it was last asked for."""
        return f"job {self.job} is {self.last.state.value}" + (f": {self.last.reason}" if self.last.reason else "")
