"""The fence: an attempt that a newer one has replaced writes nothing more into the run, and leaves.

A scheduler that loses sight of a machine starts the run again elsewhere while the old ranks may still train. Both see
one directory. Every start makes `logs/<attempt>/` there before its ranks begin, so a rank that finds a greater number
than its own knows that it was replaced. The look costs one listing of a small directory, and is taken before each
write of the first rank and once a step; what lies between a look and its write, microseconds, stays open.
"""

from __future__ import annotations

import os

from trainer.contract.attempts import newest_attempt
from trainer.contract.run_dir import RunDir


class ReplacedError(Exception):
    """A newer attempt of this run has started."""


class Fence:
    """Tells whether this attempt may still write. Once it may not, it never may again."""

    def __init__(self, run_dir: RunDir, attempt: int | None = None) -> None:
        """Without `attempt`, of ranks that no launcher counts, every attempt that starts later replaces this one."""
        self.run_dir, self._replaced = run_dir, False
        self.attempt = newest_attempt(run_dir.root) if attempt is None else attempt

    @classmethod
    def from_environment(cls, run_dir: RunDir) -> Fence:
        """Read the attempt from ESCALA_ATTEMPT, which launchers set."""
        attempt = os.environ.get("ESCALA_ATTEMPT")
        return cls(run_dir, int(attempt) if attempt else None)

    def open(self) -> bool:
        """Return whether this attempt is the newest."""
        self._replaced = self._replaced or newest_attempt(self.run_dir.root) > self.attempt
        return not self._replaced

    def check(self) -> None:
        """Raise `ReplacedError` where a newer attempt has started."""
        if not self.open():
            raise ReplacedError(self.sentence())

    def sentence(self) -> str:
        """Say what happened to an attempt that was replaced."""
        newest = newest_attempt(self.run_dir.root)
        return f"attempt {self.attempt} of {self.run_dir.root} was replaced by attempt {newest} and stops writing"
