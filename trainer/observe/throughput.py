"""The time of training steps: tokens per second without evaluations and saves, step times, waits for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Throughput:
    """Counts the time of training steps. The clock is passed in, so that tests need not wait."""

    def __init__(self, tokens_per_step: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.tokens_per_step, self._clock = tokens_per_step, clock
        self._times: list[float] = []  # of the steps since the last report
        self._tokens = self._total_tokens = self._total_steps = 0
        self._waited = self.waited_seconds = self.training_seconds = self._first = 0.0

    @contextmanager
    def step(self, tokens: int | None = None) -> Iterator[None]:
        """Time one training step, its wait for data included. `tokens`: of one with another batch."""
        began = self._clock()
        yield
        elapsed = self._clock() - began
        self._times.append(elapsed)
        tokens = self.tokens_per_step if tokens is None else tokens
        self._tokens, self._total_tokens = self._tokens + tokens, self._total_tokens + tokens
        self._total_steps += 1
        if self._total_steps == 1:
            self._first = elapsed
        self.training_seconds += elapsed

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Time the wait for data, inside a step."""
        began = self._clock()
        yield
        elapsed = self._clock() - began
        self._waited += elapsed
        self.waited_seconds += elapsed

    def report(self) -> dict[str, float | None]:
        """Return `tokens_per_second` and the times of a step since the last report, and start the next interval."""
        steps, seconds = sorted(self._times), sum(self._times)
        rate = self._tokens / seconds if seconds else None
        waited = self._waited / len(steps) if steps else None
        self._times, self._tokens, self._waited = [], 0, 0.0
        return {
            "tokens_per_second": rate,
            "step_seconds": _quantile(steps, 0.5),
            "step_seconds_p95": _quantile(steps, 0.95),
            "data_seconds": waited,
        }

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
        return self._total_tokens / self.training_seconds


def _quantile(ordered: list[float], share: float) -> float | None:
    """Return the value below which this share of the values is, by the nearest rank."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
