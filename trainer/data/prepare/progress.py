"""Progress of a preparation: a live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from trainer.contract.durations import duration

EVERY_ON_TERMINAL, EVERY_IN_LOG = 0.2, 5.0  # seconds


@dataclass
class Progress:
    """Counts text and tokens. `total_bytes` may be 0 where it is not known; then parts tell how far the work is."""

    total_bytes: int = 0
    total_parts: int = 0
    out: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    text_bytes: int = 0
    tokens: int = 0
    parts: int = 0
    _begin: float = 0.0
    _shown: float = 0.0
    _first_part_done: int = 0

    def start(self, parts_done: int, total_parts: int) -> None:
        """Begin to count, with so many parts finished by earlier attempts."""
        self.total_parts = total_parts
        self.parts = self._first_part_done = parts_done
        self._begin = self._shown = self.clock()

    def advance(self, text_bytes: int, tokens: int) -> None:
        """Count text that was encoded, and show it now and then."""
        self.text_bytes += text_bytes
        self.tokens += tokens
        now, live = self.clock(), self.out.isatty()
        if now - self._shown >= (EVERY_ON_TERMINAL if live else EVERY_IN_LOG):
            self._shown = now
            self.out.write(f"\r\x1b[K{self.line()}" if live else f"{self.line()}\n")
            self.out.flush()

    def say(self, text: str) -> None:
        """Write a line of its own."""
        self.out.write(f"\r\x1b[K{text}\n" if self.out.isatty() else f"{text}\n")
        self.out.flush()

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
