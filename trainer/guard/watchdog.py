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
from pathlib import Path

from trainer.contract.exit_codes import EXIT_FAILED

OWN = Path(__file__).resolve().parents[1]


def end_process(seconds: float) -> None:
    """Say where the main thread is, print the stacks of all threads, and leave; a hung process cannot clean up."""
    print(
        f"watchdog: no step finished for {seconds:.0f} s, at {own_place()}: ending this rank; its threads:",
        file=sys.stderr,
        flush=True,
    )
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(EXIT_FAILED)


def own_place() -> str:
    """Return the innermost line of our own code that the main thread is at, such as `data/read/batches.py:88 step`."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    innermost = frame
    while frame is not None and not _is_own(Path(frame.f_code.co_filename)):
        frame = frame.f_back
    place = frame or innermost
    if place is None:
        return "an unknown place"
    file = Path(place.f_code.co_filename)
    shown = file.relative_to(OWN) if frame is not None else file
    return f"{shown}:{place.f_lineno} {place.f_code.co_name}"


def _is_own(file: Path) -> bool:
    """Tell whether a file is ours, beside what runs any program as a rank."""
    return OWN in file.parents and OWN / "node" not in file.parents


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
