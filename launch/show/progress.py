"""Progress of long computations, on standard error: a line every few seconds, none for what is done at once."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 3.0  # seconds between lines


class _Lines(logging.Handler):
    """Write a message when the last one is old enough."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.last = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self.last >= EVERY:
            self.last = now
            print(record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def shown(logger: logging.Logger) -> Iterator[None]:
    """Show what a logger says while the block runs."""
    handler, level = _Lines(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
