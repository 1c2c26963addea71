"""Progress of a preparation: a live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from trainer.contract.durations import duration

if TYPE_CHECKING:
    from rich.live import Live

REFRESHES, EVERY_IN_LOG = 5, 5.0  # a second on a terminal; seconds


@dataclass
class Progress:
    """Counts text and tokens, and shows them on a terminal while it is open as a context manager.

    `total_bytes` may be 0 where it is not known; then parts tell how far the work is.
    """

    total_bytes: int = 0
    total_parts: int = 0
    out: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    text_bytes: int = 0
    tokens: int = 0
    parts: int = 0
    _begin: float = 0.0
    _told: float = 0.0
    _first_part_done: int = 0
    _live: Live | None = None

    def __enter__(self) -> Progress:
        if self.out.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
            self._live = _live_line(self.out, self.line)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def start(self, parts_done: int, total_parts: int) -> None:
        """Begin to count, with so many parts finished by earlier attempts."""
        self.total_parts = total_parts
        self.parts = self._first_part_done = parts_done
        self._begin = self._told = self.clock()

    def advance(self, text_bytes: int, tokens: int) -> None:
        """Count text that was encoded, and show it now and then."""
        self.text_bytes += text_bytes
        self.tokens += tokens
        if self._live is None and self.clock() - self._told >= EVERY_IN_LOG:
            self._told = self.clock()
            self.say(self.line())

    def say(self, text: str) -> None:
        """Write a line of its own."""
        if self._live is not None:
            self._live.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.out, flush=True)

    def seconds(self) -> float:
        """Return the time since the start."""
        return self.clock() - self._begin

    def line(self) -> str:
        """Return what there is to say now."""
        seconds = max(1e-9, self.seconds())
        done = self._share()
        left = f", {duration(seconds * (1 - done) / done)} left" if 0.01 < done < 1 else ""
        share = f"{done:4.0%}  " if self.total_bytes or self.total_parts > 1 else ""
        return (
            f"  encoding  {share}{self.text_bytes / 1e6:.1f} MB  {self.tokens / 1e6:.2f} M tokens  "
            f"{self.text_bytes / 1e6 / seconds:.1f} MB/s{left}"
        )

    def _share(self) -> float:
        if self.total_bytes:
            return min(1.0, self.text_bytes / self.total_bytes)
        todo = self.total_parts - self._first_part_done
        return (self.parts - self._first_part_done) / todo if todo else 1.0


def _live_line(out: TextIO, line: Callable[[], str]) -> Live:
    """Return what shows a line as it is now, cut to the width of the terminal, and takes it away at the end."""
    from rich.console import Console  # late: only a terminal pays for rich
    from rich.live import Live
    from rich.text import Text

    return Live(
        console=Console(file=out, force_terminal=True),
        get_renderable=lambda: Text(line(), no_wrap=True, overflow="ellipsis"),
        refresh_per_second=REFRESHES,
        transient=True,
        redirect_stdout=False,
    )
