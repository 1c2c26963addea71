"""The run directory: the contract between a run and whoever watches it. Everything in it can be read with `cat`.

    config.yaml          the resolved configuration
    plan.json            what was derived from it for this world
    data.json            the shards that the run began with and keeps to
    tokenizer/           a copy of the set's tokenizer
    run.json             who runs it: attempt, host, process, git revision, versions, W&B id
    status               one word, see `Status`
    metrics.jsonl        one line for each logged step and each evaluation
    events.jsonl         what happened: started, resumed, saved, preempted, done, with times
    expected.json        the loss that is expected at each step, where finished runs foretell it
    result.json          the final evaluation, written when the run is done
    logs/<attempt>/claim.json    which job started the attempt, and at which checkpoint
    logs/<attempt>/rank_<r>.log
    logs/<attempt>/{stacks,position,memory}_<r>.*    where a rank was when it was asked or ended badly
    checkpoints/step_<n>/
    latest               the name of the newest complete checkpoint

This module imports neither torch nor `launch`, so both halves use it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from trainer.contract.plain_json import to_json


class Status(StrEnum):
    """The one word in the file `status`."""

    PENDING = "pending"
    RUNNING = "running"
    PREEMPTED = "preempted"  # saved and stopped on request: run it again to go on
    DIVERGED = "diverged"  # the loss is not a number any more: running it again would repeat that
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True)
class RunDir:
    """Paths and small readers and writers of one run directory."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, sealed when the run is first started."""
        return self.root / "config.yaml"

    @property
    def plan(self) -> Path:
        """What follows from the configuration: steps, layout, parameters, memory."""
        return self.root / "plan.json"

    @property
    def data(self) -> Path:
        """The manifest of the token shards that the run keeps to."""
        return self.root / "data.json"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's files."""
        return self.root / "tokenizer"

    @property
    def run(self) -> Path:
        """Which process trains it now, where, from which code, and its id in W&B."""
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        """One row for each recorded step or evaluation."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """What happened besides: starts, saves, alarms."""
        return self.root / "events.jsonl"

    @property
    def result(self) -> Path:
        """The final figures; there once the run is done."""
        return self.root / "result.json"

    @property
    def expected(self) -> Path:
        """The loss that finished runs foretell for each step."""
        return self.root / "expected.json"

    @property
    def rollbacks(self) -> Path:
        """The steps that are left out since the run was rolled back."""
        return self.root / "rollbacks.json"

    @property
    def checkpoints(self) -> Path:
        """The directory of all checkpoints."""
        return self.root / "checkpoints"

    @property
    def latest(self) -> Path:
        """The name of the newest complete checkpoint."""
        return self.root / "latest"

    def logs(self, attempt: int) -> Path:
        """Return the directory of the logs of one attempt."""
        return self.root / "logs" / str(attempt)

    def read_status(self) -> Status | None:
        """Return the status, or None where nothing was started, or the file holds no word of a status."""
        try:
            return Status((self.root / "status").read_text(encoding="utf-8", errors="replace").strip())
        except (FileNotFoundError, ValueError):
            return None

    def write_status(self, status: Status) -> None:
        """Replace the status: the first rank of the newest attempt alone does, and its launcher once all ranks ended.

        A full disk that holds a status already has room for this one.
        """
        replace_in_place_if_full(self.root / "status", status.value + "\n")

    def record_event(self, event: str, **details: object) -> None:
        """Append one line to events.jsonl."""
        append_json(self.events, {"time": utc_now(), "event": event, **details})


def utc_now() -> str:
    """Return the time in UTC as ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader sees the old or the new text and nothing between.

    Raises `OSError` that names the file. Nothing is left behind then, and the old text stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def replace_in_place_if_full(path: Path, text: str) -> None:
    """Replace a file in one step; where the disk has no room for both, overwrite it. `text` is not much longer."""
    try:
        write_atomically(path, text)
    except OSError:
        with naming(path), path.open("r+b") as out:
            out.write(text.encode())
            out.truncate()


def append_json(path: Path, *rows: dict[str, Any]) -> None:
    """Append JSON lines, all or none: a file without an end of line gets one first, so a torn line swallows no row.

    Raises `OSError` that names the file, which then is as it was before.
    """
    with naming(path), path.open("ab+", buffering=0) as out:
        size = out.seek(0, os.SEEK_END)
        out.seek(max(0, size - 1))
        begin = b"" if out.read(1) in (b"", b"\n") else b"\n"
        content = begin + "".join(to_json(row) + "\n" for row in rows).encode()
        try:
            written = 0
            while written < len(content):
                written += out.write(content[written:]) or 0
        except OSError:
            with contextlib.suppress(OSError):  # it stays torn then, and the next row begins a new line
                os.ftruncate(out.fileno(), size)  # a full disk took a part of it
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError in the block name this file: that of a write names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
