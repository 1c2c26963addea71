"""Which job runs which run: a file `job.json` in each run directory, so that any later process finds it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.job import JobSpec
from trainer.errors import UserError, did_you_mean
from trainer.run_dir import utc_now, write_atomically

JOB_FILE = "job.json"


@dataclass(frozen=True)
class Submitted:
    """One submitted run: its job's id, and the cluster that knows about it."""

    job: str
    name: str
    cluster: str  # name or file, as given
    backend: str
    run_dir: Path
    world_size: int
    submitted: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "run_dir": str(self.run_dir)}

    def write(self) -> None:
        """Leave the record in the run directory."""
        write_atomically(self.run_dir / JOB_FILE, json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")


def record(spec: JobSpec, job: str, *, cluster: str, backend: str) -> list[Submitted]:
    """Write the record of each run of a job that was just submitted."""
    names = job.split(",") if backend == "kubernetes" else [f"{job}_{index}" for index in range(len(spec.array))]
    rows = []
    for task, identity in zip(spec.tasks, names if spec.array else [job], strict=True):
        rows.append(Submitted(identity, task.name, cluster, backend, task.run_dir, spec.world_size, utc_now()))
        rows[-1].write()
    return rows


def find(root: Path) -> Iterator[Submitted]:
    """Yield the submitted runs at or below a directory, newest first."""
    if not root.is_dir():
        raise UserError(f"there is no directory {root}; name the one that holds your runs")
    files = [root / JOB_FILE] if (root / JOB_FILE).exists() else root.glob(f"**/{JOB_FILE}")
    rows = [_read(path) for path in files]
    yield from sorted(rows, key=lambda row: (row.submitted, row.job), reverse=True)


def find_one(root: Path, word: str) -> Submitted:
    """Return the run that is meant by a job id, a name or a directory. Raises UserError when none or several are."""
    if (Path(word) / JOB_FILE).exists():
        return _read(Path(word) / JOB_FILE)
    rows = list(find(root))
    meant = [row for row in rows if word in (row.job, row.name)]
    if not meant:
        known = [name for row in rows for name in (row.job, row.name)]
        raise UserError(f"no submitted run {word!r} under {root}{did_you_mean(word, known[:40])}")
    if len({row.job for row in meant}) > 1:
        raise UserError(f"{word!r} may be any of the jobs {', '.join(row.job for row in meant)}: give the id")
    return meant[0]


def read(run_dir: Path) -> Submitted | None:
    """Return the record of one run directory, or None where nothing was submitted."""
    return _read(run_dir / JOB_FILE) if (run_dir / JOB_FILE).exists() else None


def _read(path: Path) -> Submitted:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return Submitted(**{**row, "run_dir": Path(row["run_dir"])})
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not the record of a job ({error}): remove it and submit again") from None
