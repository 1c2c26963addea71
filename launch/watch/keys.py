"""Keys of a terminal, one by one: letters as they are, others by name."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

ENTER, BACK, UP, DOWN, LEFT, RIGHT, PAGE_UP, PAGE_DOWN, ERASE = (
    "enter", "back", "up", "down", "left", "right", "page up", "page down", "erase",
)  # fmt: skip
_SEQUENCES = {  # as xterm sends them, longest first
    "\x1b[5~": PAGE_UP, "\x1b[6~": PAGE_DOWN, "\x1b[A": UP, "\x1b[B": DOWN, "\x1b[C": RIGHT, "\x1b[D": LEFT,
    "\x1bOA": UP, "\x1bOB": DOWN, "\x1bOC": RIGHT, "\x1bOD": LEFT, "\x1b": BACK, "\r": ENTER, "\n": ENTER,
    "\x7f": ERASE, "\b": ERASE,
}  # fmt: skip
CLOSED = "q"  # what a terminal that is gone says


class Keys:
    """The keys that are pressed while they come one by one and unseen."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()

    def __call__(self, seconds: float) -> str:
        """Return the next key that is pressed within so many seconds; "" where none is."""
        descriptor = sys.stdin.fileno()  # not the buffered stream: `select` does not see what that has taken
        if not self._waiting and select.select([descriptor], [], [], seconds)[0]:
            self._waiting.extend(keys_of(os.read(descriptor, 1024).decode("utf-8", "replace")) or [CLOSED])
        return self._waiting.popleft() if self._waiting else ""


def keys_of(text: str) -> list[str]:
    """Return the keys that a terminal sent. A sequence that means nothing to us is none."""
    found = []
    while text:
        known = next((sequence for sequence in _SEQUENCES if text.startswith(sequence)), None)
        if text.startswith(("\x1b[", "\x1bO")) and known == "\x1b":  # another key with a sequence, such as F5
            end = next((i for i, letter in enumerate(text[2:], 2) if letter.isalpha() or letter == "~"), len(text))
            text = text[end + 1 :]
            continue
        found.append(text[0] if known is None else _SEQUENCES[known])
        text = text[len(known or text[0]) :]
    return found


@contextmanager
def keys() -> Iterator[Keys]:
    """Have keys come one by one and unseen while the block runs."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield Keys()
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
