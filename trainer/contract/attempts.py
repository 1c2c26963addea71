"""Attempts of a run: each start claims the next number by making logs/<number>, so that two never have the same one."""

from __future__ import annotations

import contextlib
from pathlib import Path

from trainer.contract.run_dir import RunDir


def attempts(run_dir: Path) -> list[int]:
    """Return the attempts that left logs, in order."""
    logs = run_dir / "logs"
    if not logs.is_dir():
        return []
    return sorted(int(entry.name) for entry in logs.iterdir() if entry.name.isdigit())


def newest_attempt(run_dir: Path) -> int:
    """Return the number of the newest attempt that has a log directory; 0 where there is none or it cannot be seen."""
    with contextlib.suppress(OSError):  # a shared filesystem that is away for a moment says nothing about attempts
        return max(attempts(run_dir), default=0)
    return 0


def claim_attempt(run_dir: Path) -> tuple[int, Path]:
    """Create and return the next attempt's number and log directory. An older one that still runs sees it and ends."""
    attempt = newest_attempt(run_dir) + 1
    while True:
        path = RunDir(run_dir).logs(attempt)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            attempt += 1
        else:
            return attempt, path
