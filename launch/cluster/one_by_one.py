"""Several runs for a scheduler that has no arrays: each is a job of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from launch.cluster.backend import Scheduler
from launch.cluster.job import JobIdentity, JobSpec, JobStatus
from trainer.contract.errors import UserError


class OneByOne:
    """A scheduler that takes arrays, around one that does not. The id of an array is those of its jobs, with commas."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def render(self, spec: JobSpec) -> str:
        """Return what is handed over for each run, one after the other."""
        return "".join(self.scheduler.render(job) for job in _jobs(spec))

    def rehearse(self, spec: JobSpec) -> None:
        """Have the first run judged: the others differ by nothing that is."""
        self.scheduler.rehearse(next(_jobs(spec)))

    def submit(self, spec: JobSpec) -> str:
        """Submit each run. Raises UserError where one is refused; those before it are taken back."""
        ids: list[str] = []
        for job in _jobs(spec):
            try:
                ids.append(self.scheduler.submit(job))
            except UserError as error:
                raise UserError(f"{error}{self._take_back(ids)}") from None
        return ",".join(ids)

    def _take_back(self, ids: list[str]) -> str:
        """Cancel jobs; return what to add to the reason for it: nothing, or which of them may still be queued."""
        try:
            self.scheduler.cancel(*ids)
        except UserError as error:
            return f"; still queued, perhaps: {', '.join(ids)} ({error})"
        return ""

    def identity(self, job: str) -> JobIdentity:
        """Return that of the first run."""
        return self.scheduler.identity(job.partition(",")[0])

    def adopt(self, job: str, run_dirs: tuple[Path, ...], identity: JobIdentity) -> None:
        """Take up one run's job."""
        self.scheduler.adopt(job, run_dirs, identity)

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        """Return the status of each run's job."""
        return self.scheduler.status(ids)

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yield the lines of one run's job."""
        return self.scheduler.logs(job, rank, follow)

    def batch_lines(self, job: str) -> Iterator[str] | None:
        """Return those of one run's job."""
        return self.scheduler.batch_lines(job)

    def cancel(self, *jobs: str) -> None:
        """End the jobs of runs."""
        self.scheduler.cancel(*jobs)


def _jobs(spec: JobSpec) -> Iterator[JobSpec]:
    if spec.array_cap is not None:
        raise UserError(f"job {spec.name!r}: without arrays, nothing holds its runs to {spec.array_cap} at a time")
    for task in spec.tasks:
        yield replace(spec, name=task.name, command=task.command, run_dir=task.run_dir, array=())
