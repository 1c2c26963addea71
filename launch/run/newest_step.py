"""The newest rows of a run, from the ends of its files: a long run has 10^5 lines, and the last few say it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.contract.plain_json import parse_line
from trainer.contract.run_dir import RunDir

BLOCK = 8192  # bytes; the next one is twice as long


def newest_step(run_dir: RunDir) -> dict[str, Any] | None:
    """Return the newest row of training, with `step` and `loss`; None where there is none, or nothing can be read."""
    try:
        return next(training_rows(run_dir), None)
    except OSError:  # a directory in its place, a filesystem that is away: no reason to hide the run
        return None


def training_rows(run_dir: RunDir) -> Iterator[dict[str, Any]]:
    """Yield the rows of training that have a step and a loss, newest first, reading no further than is asked for."""
    for row in rows_backwards(run_dir.metrics):
        if row.get("kind") == "train" and isinstance(row.get("step"), int) and "loss" in row:
            yield row


def newest_event(run_dir: RunDir, *names: str, having: str = "event") -> dict[str, Any] | None:
    """Return the newest event of these names that has this key, from the end of events.jsonl; None where there is none.

    Raises `OSError`.
    """
    rows = rows_backwards(run_dir.events)
    return next((row for row in rows if row.get("event") in names and having in row), None)


def rows_backwards(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file, newest first; none where there is no file.

    As in `read_lines`, damaged lines are left out, and a last line without its end too.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        at, block, begun, torn = file.seek(0, os.SEEK_END), BLOCK, b"", True
        while at > 0:
            size = min(block, at)
            at, block = at - size, 2 * block
            file.seek(at)
            lines = (file.read(size) + begun).split(b"\n")
            if torn:  # what follows the last end of a line
                lines.pop()
            torn = torn and not lines
            begun = lines[0] if lines and at > 0 else b""
            for line in reversed(lines[1:] if at > 0 else lines):
                if (row := parse_line(line)) is not None:
                    yield row
