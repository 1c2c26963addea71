"""Signals that ask a run to save and stop: SIGTERM and SIGUSR1, which schedulers send before they take the machine."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def on_stop_signal(ask_to_stop: Callable[[], None]) -> Callable[[], None]:
    """Call `ask_to_stop` whenever a stop signal arrives; return a function that puts the former handlers back.

    The handler does nothing else: the ranks agree at the next step boundary, whichever of them were told.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        ask_to_stop()

    former = {number: signal.signal(number, handle) for number in STOP_SIGNALS}

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    return restore
