"""The run directory: the contract between a run and whoever watches it. Everything in it can be read with `cat`.

    config.yaml          the resolved configuration
    plan.json            what was derived from it for this world
    data.json            the shards that the run began with and keeps to
    tokenizer/           a copy of the set's tokenizer
    run.json             who runs it: attempt, host, git revision, versions, W&B id
    status               one word, see `Status`
    metrics.jsonl        one line for each logged step and each evaluation
    events.jsonl         what happened: started, resumed, saved, evaluated, preempted, finished, with times
    result.json          the final evaluation, written when the run is done
    logs/<attempt>/rank_<r>.log
    checkpoints/step_<n>/
    latest               the name of the newest complete checkpoint

This module imports neither torch nor `launch`, so both halves use it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

# Exit codes of a rank and of `torchrun`'s caller. 75 is EX_TEMPFAIL of sysexits.h: try again. 77: a newer attempt has
# replaced this one.
EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, EXIT_PREEMPTED, EXIT_DIVERGED, EXIT_FENCED = 0, 1, 2, 75, 76, 77
# A rank that leaves with one of these did so by agreement: starting the job again would not mend it, or is the business
# of the requeue policy.
AGREED_EXITS = frozenset({EXIT_USER_ERROR, EXIT_PREEMPTED, EXIT_DIVERGED, EXIT_FENCED})


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
        return self.root / "config.yaml"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def data(self) -> Path:
        return self.root / "data.json"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def run(self) -> Path:
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def latest(self) -> Path:
        return self.root / "latest"

    def logs(self, attempt: int) -> Path:
        return self.root / "logs" / str(attempt)

    def read_status(self) -> Status | None:
        """Return the status, or None for a directory in which nothing was started."""
        path = self.root / "status"
        return Status(path.read_text().strip()) if path.exists() else None

    def write_status(self, status: Status) -> None:
        write_atomically(self.root / "status", status.value + "\n")

    def record_event(self, event: str, **details: Any) -> None:
        """Append one line to events.jsonl."""
        append_json(self.events, {"time": utc_now(), "event": event, **details})


def utc_now() -> str:
    """Return the time in UTC as ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader sees the old or the new text and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)


def append_json(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line."""
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a JSON-lines file; a torn last line is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)
