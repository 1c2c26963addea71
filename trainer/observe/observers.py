"""Who is told what happens in a run: the local record, the console, W&B.

To add an observer, write a class with the three methods of `Observer` and list it in `_open_observers` of
`trainer/session.py`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from trainer.contract.run_dir import utc_now

Row = dict[str, Any]


class Observer(Protocol):
    """Somebody who is told what happens, on the first rank alone. It has its own state, and must not wait or fail."""

    def row(self, row: Row) -> None:
        """A recorded step (`kind` train) or an evaluation; the keys are those of `trainer/observe/metrics.py`."""

    def event(self, row: Row) -> None:
        """Something else, such as `started`, `saved`, `step_skipped`, `failed`: `time`, `event` and its details."""

    def finish(self, exit_code: int) -> None:
        """The run has ended."""


class Observers:
    """Tells all observers, on the first rank while this attempt may write; elsewhere every call does nothing.

    One thing at a time, whichever thread tells: a checkpoint's own thread says that it is saved while the run goes on.
    """

    def __init__(
        self, observers: Sequence[Observer], *, first: bool, may_write: Callable[[], bool] = lambda: True
    ) -> None:
        self._observers, self._first, self._may_write = tuple(observers), first, may_write
        self._lock = threading.RLock()  # a signal's handler may tell in the midst of telling

    @property
    def active(self) -> bool:
        """Whether this rank writes. Asked before each write: a newer attempt of the run ends it."""
        return self._first and self._may_write()

    def row(self, kind: str, step: int, **values: object) -> None:
        """Tell of a recorded step or an evaluation after `step` steps."""
        if self.active:
            with self._lock:
                for observer in self._observers:
                    observer.row({"kind": kind, "step": step, **values})

    def event(self, event: str, **details: object) -> None:
        """Tell of anything else, by name."""
        if self.active:
            with self._lock:
                row = {"time": utc_now(), "event": event, **details}
                for observer in self._observers:
                    observer.event(row)

    def warn(self, sentence: str) -> None:
        """Print a warning on the first rank."""
        if self.active:
            print(f"warning: {sentence}", file=sys.stderr, flush=True)

    def finish(self, exit_code: int) -> None:
        """Tell that the run has ended."""
        with self._lock:
            for observer in self._observers:
                observer.finish(exit_code)
