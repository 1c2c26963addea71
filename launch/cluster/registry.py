"""Which job runs which run: a file `job.json` in each run directory, so that any later process finds it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from launch.cluster.backends import queued
from launch.cluster.job import NOBODY, JobIdentity, JobSpec
from trainer.contract.errors import UserError, did_you_mean
from trainer.contract.plain_json import DamagedFileError, read_object
from trainer.contract.run_dir import utc_now, write_atomically

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
    identity: JobIdentity = NOBODY  # tells the job from another one that has its id now
    settings: Mapping[str, Any] | None = field(default=None, compare=False)  # the cluster file as it was then

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        row = {**asdict(self), "run_dir": str(self.run_dir)}
        return {key: value for key, value in row.items() if value is not None}

    def write(self) -> None:
        """Leave the record in the run directory."""
        write_atomically(self.run_dir / JOB_FILE, json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")


@cache
def _schema() -> TypeAdapter[Submitted]:
    """Return what reads records; made when the first one is read, for that costs a command 3 ms."""
    return TypeAdapter(Submitted)


@dataclass(frozen=True)
class Damaged:
    """A record that cannot be read, and why."""

    path: Path
    reason: str


def record(
    spec: JobSpec,
    job: str,
    *,
    cluster: str,
    backend: str,
    identity: JobIdentity | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Submitted]:
    """Write the record of each run of a job that was just submitted. Raises UserError that names the job."""
    where = (cluster, backend)
    rows = [
        Submitted(one, task.name, *where, task.run_dir, spec.world_size, utc_now(), identity or NOBODY, settings)
        for task, one in zip(spec.tasks, _ids_of_tasks(spec, job, backend), strict=True)
    ]
    for row in rows:
        try:
            row.write()
        except OSError as error:
            raise UserError(
                f"{backend} job {job} is submitted, but {row.run_dir / JOB_FILE} cannot be written ({error.strerror}): "
                f"do not submit it again; `escala` finds it by that file alone, the scheduler by its id"
            ) from None
    return rows


def _ids_of_tasks(spec: JobSpec, job: str, backend: str) -> list[str]:
    """Return the scheduler's id of each task. `job` is one id, or those of several arrays with commas between."""
    kind = queued(backend)
    return kind.task_ids(spec, job) if spec.array and kind is not None else [job]


def records(root: Path) -> list[Submitted | Damaged]:
    """Return the submitted runs at or below a directory, newest first, and the records that cannot be read."""
    if not root.is_dir():
        raise UserError(f"there is no directory {root}; name the one that holds your runs")
    files = [root / JOB_FILE] if (root / JOB_FILE).exists() else root.glob(f"**/{JOB_FILE}")
    found: list[Submitted | Damaged] = []
    for path in files:
        try:
            found.append(_read(path))
        except UserError as error:
            found.append(Damaged(path, str(error)))
    return sorted(found, key=_age, reverse=True)


def _age(row: Submitted | Damaged) -> tuple[str, str]:
    return (row.submitted, row.job) if isinstance(row, Submitted) else ("", str(row.path))


def find(root: Path) -> Iterator[Submitted]:
    """Yield the submitted runs at or below a directory, newest first."""
    yield from (row for row in records(root) if isinstance(row, Submitted))


def find_all(root: Path, word: str) -> list[Submitted]:
    """Return the runs that are meant by a job id, a name or a directory: those of a sweep where it names one.

    Raises UserError when there are none, or when a name is that of several runs.
    """
    if "," in word:  # a sweep that is more than one array
        return [row for part in word.split(",") for row in find_all(root, part)]
    place = next((p for p in (Path(word), root / word) if p.is_dir() and word not in ("", ".")), None)
    if place is not None and (place / JOB_FILE).exists():
        return [_read(place / JOB_FILE)]
    rows = list(find(root))
    meant = [row for row in rows if word == row.job] or [row for row in rows if word in _parents(row)]
    if meant:
        return _newest(meant, word)
    meant = [row for row in rows if word == row.name]
    if not meant and place is not None:
        meant = list(find(place))
    if not meant:
        known = [name for row in rows for name in (row.job, row.name, *_parents(row))]
        raise UserError(f"no submitted run {word!r} under {root}{did_you_mean(word, dict.fromkeys(known[:40]))}")
    if len({row.job for row in meant}) > 1 and all(row.name == word for row in meant):
        raise UserError(f"{word!r} may be any of the jobs {', '.join(row.job for row in meant)}: give the id")
    return meant


def _newest(rows: list[Submitted], word: str) -> list[Submitted]:
    """Return the rows of the newest submission that an id means: ids begin anew, and each cluster has its own."""
    sites = sorted({row.identity.site for row in rows})
    if len(sites) > 1:
        raise UserError(f"{word!r} is an id on the clusters {', '.join(map(repr, sites))}: give a name or a directory")
    outputs = {row.run_dir: row.identity.output or str(row.run_dir.parent) for row in rows}
    return [row for row in rows if outputs[row.run_dir] == outputs[rows[0].run_dir]]


def find_one(root: Path, word: str) -> Submitted:
    """Return the one run that is meant, as `find_all` does. Raises UserError when none or several are."""
    meant = find_all(root, word)
    if len(meant) > 1:
        few = ", ".join(row.job for row in meant[:5])
        raise UserError(f"{word!r} is a sweep of {len(meant)} runs: name one of them, {few}{' ...' * (len(meant) > 5)}")
    return meant[0]


def _parents(row: Submitted) -> set[str]:
    """Return by what the whole sweep of a cell is called: the id of its array, and the sweep's name."""
    kind = queued(row.backend)
    found = set() if kind is None else {kind.array_of(row.job)}
    if row.run_dir.parent.name == "cells":
        found.add(row.run_dir.parent.parent.name)
    return found - {""}


def read(run_dir: Path) -> Submitted | None:
    """Return the record of one run directory, or None where nothing was submitted."""
    return _read(run_dir / JOB_FILE) if (run_dir / JOB_FILE).exists() else None


def _read(path: Path) -> Submitted:
    try:
        row = read_object(path)
        known = {key: value for key, value in row.items() if key in {f.name for f in fields(Submitted)}}
        # Where it lies now: runs are moved, and seen under another path from another machine.
        return _schema().validate_python({**known, "run_dir": path.parent.absolute()})
    except (OSError, ValidationError, DamagedFileError) as error:
        wrong = error.errors()[0] if isinstance(error, ValidationError) else None
        why = (
            f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
            if wrong
            else str(error).removeprefix(f"{path} is damaged: ")
        )
        text = f"{path} is not the record of a job ({why}): remove it, and look for the job at its scheduler"
        raise UserError(text) from None
