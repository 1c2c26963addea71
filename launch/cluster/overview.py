"""Submitted runs with their status: one question to each scheduler, however many jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from launch.cluster import attached
from launch.cluster.backend import Scheduler
from launch.cluster.backends import is_driven
from launch.cluster.config import load_cluster, open_scheduler, read_cluster
from launch.cluster.ended import by_record
from launch.cluster.job import JobState, JobStatus
from launch.cluster.registry import Damaged, Submitted, find_all, records
from launch.run.newest_step import newest_step
from launch.run.run_state import loss_of_progress
from trainer.contract.errors import UserError, os_error_text
from trainer.contract.run_dir import RunDir


@dataclass(frozen=True)
class Row:
    """One submitted run, its status now, and the last step it logged."""

    submitted: Submitted
    status: JobStatus
    step: int | None

    def to_json(self) -> dict[str, object]:
        """Return plain values for scripts."""
        failure = self.status.failure
        return {
            "job": self.submitted.job,
            "name": self.submitted.name,
            "cluster": self.submitted.cluster,
            "backend": self.submitted.backend,
            "run_dir": str(self.submitted.run_dir),
            "ranks": self.submitted.world_size,
            "submitted": self.submitted.submitted,
            "state": self.status.state.value,
            "exit_code": self.status.exit_code,
            "reason": self.status.reason,
            "failed_rank": None if failure is None else failure.rank,
            "failed_host": None if failure is None else failure.host,
            "step": self.step,
            "loss_of_progress": self.loss_of_progress,
        }

    @property
    def loss_of_progress(self) -> str:
        """Which checkpoints were passed over, and how many steps are trained again; empty where nothing was lost."""
        try:
            return loss_of_progress(RunDir(self.submitted.run_dir))
        except OSError as error:  # no reason to hide it, or the other runs
            return f"what was lost is not known: {os_error_text(error)}"


def overview(root: Path, words: Sequence[str] = ()) -> list[Row]:
    """Return every submitted run at or below `root`, newest first, or those that names, ids or directories mean.

    A run whose scheduler does not answer, or whose record is damaged, is among them and says so.
    """
    found = records(root) if not words else list(dict.fromkeys(r for word in words for r in find_all(root, word)))
    rows = [row for row in found if isinstance(row, Submitted)]
    statuses = statuses_of(rows)
    shown = [Row(row, statuses[row.run_dir], _step(row.run_dir)) for row in rows]
    return [*shown, *(_damaged(row) for row in found if isinstance(row, Damaged))]


def _step(run_dir: Path) -> int | None:
    row = newest_step(RunDir(run_dir))
    return None if row is None else int(row["step"])


def statuses_of(rows: Sequence[Submitted]) -> dict[Path, JobStatus]:
    """Return the status of each run by its directory: unknown, with the reason, where nobody can be asked."""
    statuses: dict[Path, JobStatus] = {}
    groups: dict[object, dict[str, Submitted]] = {}
    for row in rows:
        try:
            known = attached.status(row) if is_driven(row.backend) else by_record(row.run_dir)
        except (UserError, OSError, ValueError) as error:  # somebody else's directory, a damaged file
            known = _unknown(error)
        if known is not None:
            statuses[row.run_dir] = known
        else:
            place = (row.backend, row.cluster, json.dumps(row.settings))
            # Ids begin anew: two runs of one directory may have the same, and are asked about one after the other.
            again = next(i for i in count() if row.job not in groups.get((place, i), {}))
            groups.setdefault((place, again), {})[row.job] = row
    for group in (list(by_job.values()) for by_job in groups.values()):
        try:
            found = scheduler_of(group).status([row.job for row in group])
            statuses |= {row.run_dir: found[row.job] for row in group}
        except (UserError, OSError, ValueError) as error:
            statuses |= {row.run_dir: _unknown(error) for row in group}
    return statuses


def _unknown(error: Exception) -> JobStatus:
    return JobStatus(JobState.UNKNOWN, reason=f"cannot be asked: {error}")


def _damaged(row: Damaged) -> Row:
    place = row.path.parent
    return Row(Submitted("?", place.name, "?", "?", place, 0, ""), JobStatus(JobState.UNKNOWN, reason=row.reason), None)


def scheduler_of(rows: Sequence[Submitted]) -> Scheduler:
    """Return the scheduler of runs of one cluster, as its file was at their submission; it knows their directories.

    Raises UserError where the record has no settings and the cluster file is gone.
    """
    settings = rows[0].settings
    cluster = load_cluster(rows[0].cluster) if settings is None else read_cluster(settings, rows[0].cluster)
    scheduler = open_scheduler(cluster)
    for row in rows:
        scheduler.adopt(row.job, (row.run_dir,), row.identity)
    return scheduler
