"""Tokens per second over the steps since the last report, without the time of evaluations and saves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Throughput:
    """Counts the time of training steps. The clock is passed in, so that tests need not wait."""

    def __init__(self, tokens_per_step: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.tokens_per_step, self._clock = tokens_per_step, clock
        self._steps = self._total_steps = 0
        self._seconds = self.training_seconds = self._first = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time one training step."""
        began = self._clock()
        yield
        elapsed = self._clock() - began
        self._steps += 1
        self._total_steps += 1
        if self._total_steps == 1:
            self._first = elapsed
        self._seconds += elapsed
        self.training_seconds += elapsed

    def report(self) -> float | None:
        """Return tokens per second since the last report, and start the next interval."""
        if self._steps == 0 or self._seconds == 0:
            return None
        rate = self._steps * self.tokens_per_step / self._seconds
        self._steps, self._seconds = 0, 0.0
        return rate

    def left(self, steps: int) -> float | None:
        """Return the seconds that so many steps will take, from the mean of all but the first, which is slow."""
        if self._total_steps < 2:
            return None
        return steps * (self.training_seconds - self._first) / (self._total_steps - 1)

    @property
    def overall(self) -> float | None:
        """Tokens per second of all steps of this process."""
        if self.training_seconds == 0:
            return None
        return self._total_steps * self.tokens_per_step / self.training_seconds
