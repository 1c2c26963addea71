"""All submitted runs under a directory with their status: one question to each scheduler, however many jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.backends import attached
from launch.backends.cluster import load_cluster, open_backend
from launch.backends.registry import Submitted, find
from launch.job import Backend, JobStatus
from launch.run_state import loss_of_progress
from trainer.failure import tail
from trainer.run_dir import RunDir

ATTACHED = ("local", "ssh")


@dataclass(frozen=True)
class Row:
    """One submitted run, its status now, and the last step it logged."""

    submitted: Submitted
    status: JobStatus
    step: int | None

    def to_json(self) -> dict[str, Any]:
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
        return loss_of_progress(RunDir(self.submitted.run_dir))


def overview(root: Path) -> list[Row]:
    """Return every submitted run at or below `root`, newest first. Raises UserError when a scheduler is away."""
    rows = list(find(root))
    statuses = {id(row): attached.status(row) for row in rows if row.backend in ATTACHED}
    scheduled = [row for row in rows if row.backend not in ATTACHED]
    for cluster in {row.cluster for row in scheduled}:
        mine = [row for row in scheduled if row.cluster == cluster]
        backend = backend_of(mine)
        found = backend.status([row.job for row in mine])
        statuses.update({id(row): found[row.job] for row in mine})
    return [Row(row, statuses[id(row)], last_step(row.run_dir)) for row in rows]


def backend_of(rows: list[Submitted]) -> Backend:
    """Return the backend of runs of one cluster; it knows their directories."""
    backend = open_backend(load_cluster(rows[0].cluster))
    adopt = getattr(backend, "adopt", None)
    if adopt is not None:
        for row in rows:
            adopt(row.job, (row.run_dir,))
    return backend


def last_step(run_dir: Path) -> int | None:
    """Return the step of the newest complete line of metrics.jsonl, without reading all of it."""
    lines = tail(RunDir(run_dir).metrics, 8192).split("\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines else None
