"""How long each rank takes by itself, so that the one that all wait for can be named.

The ranks of a step end together: each waits for the slowest in the sums of gradients. What tells them apart is the time
before that: the forward pass of a step's first micro-batch, and the wait for data. Tensor ranks, and all ranks under
ZeRO 3, wait for one another in the forward pass too, so there a slow rank shows with its group. On a GPU the time comes
from events in its stream, which nobody waits for.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

MOST = 64  # events between two reports: of a longer interval the newest count


class RankTimes:
    """The forward times of this rank since the last report."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: list[float] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Time the forward pass of a step's first micro-batch."""
        if self.device.type == "cuda":
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record()
            yield
            ended.record()
            self._events = [*self._events[-MOST:], (began, ended)]
            return
        start = time.perf_counter()
        yield
        self._seconds.append(time.perf_counter() - start)

    def row(self, waited: float, world: int, asked: int = 0) -> tuple[dict[str, float | int], int]:
        """Return what the record says of the ranks, nothing with one rank, and begin anew. A collective call.

        `waited` is this rank's mean wait for the data of a step, in seconds. What is
        `asked` of the first rank, such as steps to profile, travels along: the second value is its number on all ranks.
        """
        over = [(a, b) for a, b in self._events if b.query()]  # a step that is ahead may be under way
        seconds = [*self._seconds, *(a.elapsed_time(b) / 1e3 for a, b in over)]
        self._seconds, self._events = [], [pair for pair in self._events if pair not in over]
        if world == 1:
            return {}, asked
        own = (statistics.fmean(seconds) if seconds else 0.0) + waited
        numbers = torch.tensor([own, waited, float(asked)], dtype=torch.float32, device=self.device)
        every = torch.empty(world, 3, dtype=torch.float32, device=self.device)
        dist.all_gather(list(every), numbers)
        rows: list[list[float]] = every.tolist()
        slowest = max(range(world), key=lambda rank: rows[rank][0])
        found = {
            "rank_seconds": statistics.median(row[0] for row in rows),
            "slowest_rank": slowest,
            "slowest_rank_seconds": rows[slowest][0],
            "slowest_rank_wait": rows[slowest][1],
        }
        return found, int(rows[0][2])
