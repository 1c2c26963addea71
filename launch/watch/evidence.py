"""What a run left about one kind of failure: lines to show, what helps, and who began it where that is known better."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainer.contract.attempts import attempts
from trainer.contract.run_dir import RunDir


@dataclass(frozen=True)
class Evidence:
    """Found in a run's files. What is empty or None says no more than the cause itself does."""

    details: list[str] = field(default_factory=list)
    helps: str = ""
    settings: dict[str, str] = field(default_factory=dict)  # to go on with, for `--set`
    options: list[str] = field(default_factory=list)  # to go on with, of `escala train`
    rank: int | None = None  # that began it, where it is not the one that failed first
    host: str = ""
    stack: list[str] = field(default_factory=list)  # of that rank, the innermost call first


def newest_logs_of(run_dir: RunDir) -> Path | None:
    """Return the log directory of a run's newest attempt; None where nothing was started."""
    known = attempts(run_dir.root)
    return run_dir.logs(known[-1]) if known else None
