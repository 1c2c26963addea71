"""A JSON-lines file that never ends a run: rows that a full disk does not take wait in memory and are written later."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import Any

from trainer.contract.run_dir import append_json

MOST_WAITING = 10_000  # rows; beyond that the oldest are dropped and counted


class Journal:
    """Appends rows to one file. What cannot be written waits, in order, at most `most` rows of it."""

    def __init__(self, path: Path, most: int = MOST_WAITING) -> None:
        self.path = path
        self.waiting: deque[dict[str, Any]] = deque(maxlen=most)
        self.dropped = self._longest = 0

    def write(self, *rows: dict[str, Any]) -> str | None:
        """Append rows after those that wait. Return what became of them, once, when writing works again.

        The first failure is said on standard error. Never raises `OSError`.
        """
        for row in rows:
            self.dropped += len(self.waiting) == self.waiting.maxlen
            self.waiting.append(row)
        if not self.waiting:
            return None
        try:
            append_json(self.path, *self.waiting)
        except OSError as error:
            if not self._longest:
                print(f"warning: {self.path.name} cannot be written ({error.strerror}): its rows wait in memory and "
                      "training goes on", file=sys.stderr, flush=True)  # fmt: skip
            self._longest = max(self._longest, len(self.waiting))
            return None
        return self._caught_up()

    def _caught_up(self) -> str | None:
        waited, dropped = self._longest, self.dropped
        self.waiting.clear()
        self.dropped = self._longest = 0
        if not waited:
            return None
        text = f"{self.path.name} can be written again: {waited} rows waited, {dropped} were dropped"
        print(f"warning: {text}", file=sys.stderr, flush=True)
        return text
