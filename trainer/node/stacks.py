"""Where a rank is: the stacks of all its threads, in a file beside its log, each time it gets SIGUSR2.

The handler is C code (`faulthandler`), so it answers while the interpreter waits in a driver, a collective or a file
system. A stack names files, functions and lines, and no value of any variable. Free of torch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

ASK = signal.SIGUSR2
_files: list[IO[str]] = []  # faulthandler keeps the descriptor alone: a file that is collected would close it


def dump_on_signal(log: Path) -> None:
    """Have SIGUSR2 append the stacks of this process to `stacks_<r>.txt` beside its log, `rank_<r>.log`.

    Where that file cannot be opened, they go to standard error.
    """
    file: IO[str] = sys.__stderr__ or sys.stderr
    with contextlib.suppress(OSError):
        file = log.with_name(log.stem.replace("rank", "stacks") + ".txt").open("a", encoding="utf-8")
    _files[:] = [file]
    faulthandler.register(ASK, file=file, all_threads=True)


def also_on_signal(act: Callable[[], None]) -> None:
    """Have a thread call `act` after each dump. Needs `dump_on_signal` and the main thread; else it does nothing.

    The thread hears of the signal through the wakeup descriptor, which C code writes to: the main thread may be stuck.
    """
    if not _files or threading.current_thread() is not threading.main_thread():
        return
    heard, wake = os.pipe()
    os.set_blocking(wake, False)
    faulthandler.unregister(ASK)
    signal.signal(ASK, lambda *_: None)  # its C part wakes the thread
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    faulthandler.register(ASK, file=_files[0], all_threads=True, chain=True)

    def listen() -> None:
        while numbers := os.read(heard, 64):
            if ASK in numbers:
                act()

    threading.Thread(target=listen, name="answers to SIGUSR2", daemon=True).start()
