"""The watchdog: ends a rank that makes no progress.

A rank can hang where no collective times out: a dead file system, a deadlock, a driver. Its peers then wait for it. The
watchdog prints where every thread stands and ends the process, and the launcher starts the run again.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from trainer.contract.exit_codes import EXIT_FAILED


def end_process(seconds: float) -> None:
    """Print the stacks of all threads and leave at once; a hung process cannot clean up."""
    print(
        f"watchdog: no step finished for {seconds:.0f} s, ending this rank; its threads:", file=sys.stderr, flush=True
    )
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(EXIT_FAILED)


class Watchdog:
    """Expects a `beat` at least every `seconds`. It watches from its first beat on, in a thread."""

    def __init__(
        self,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_silence: Callable[[float], None] = end_process,
    ) -> None:
        self.seconds, self.clock, self.on_silence = seconds, clock, on_silence
        self._last: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Say that the rank makes progress."""
        first = self._last is None
        self._last = self.clock()
        if first:
            self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(min(self.seconds / 4, 5.0)):
            assert self._last is not None
            silence = self.clock() - self._last
            if silence > self.seconds:
                self.on_silence(silence)
                return
