"""Profiles of a range of steps: a trace of each rank that https://ui.perfetto.dev opens.

`profiles/step_<first>_rank_<r>.json.gz` in the run directory, in the format of Chrome's trace viewer. Ranges come from
`tracking.profile_steps`, or from `escala profile` while the run trains: it leaves a file which the first rank finds at
its next row, and all ranks then profile the same steps.
"""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from trainer.contract.hiding import without_secrets
from trainer.contract.profile_request import take_request
from trainer.contract.run_dir import RunDir


class Profile:
    """Profiles this rank in ranges of steps, END left out. Steps count as the record does: the first is 1."""

    def __init__(
        self,
        run_dir: RunDir,
        rank: int,
        ranges: Sequence[tuple[int, int]],
        *,
        cuda: bool,
        event: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self.run_dir, self.rank, self.ranges, self.event = run_dir, rank, list(ranges), event
        self.activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self._running: profile | None = None
        self._first = self._end = 0

    def asked(self) -> int:
        """Return for how many steps `escala profile` asks since it was last looked for; 0 for none. First rank only."""
        return take_request(self.run_dir.root)

    def begin(self, step: int, steps: int) -> None:
        """Profile `steps` steps from `step` on, unless a range is running. Call it alike on all ranks."""
        if steps:
            self.ranges.append((step, step + steps))

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Wrap one step."""
        if self._running is None:
            found = [pair for pair in self.ranges if pair[0] == number]
            if not found:
                yield
                return
            self._first, self._end = found[0]
            self._running = profile(activities=self.activities, record_shapes=True)
            self._running.start()
        with record_function(f"step {number}"):
            yield
        if number + 1 >= self._end:
            self.close()

    def close(self) -> None:
        """End a range and write its trace. A full disk, or none that may be written, costs the trace alone."""
        running, self._running = self._running, None
        if running is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        running.stop()
        path = self.run_dir.root / "profiles" / f"step_{self._first:09d}_rank_{self.rank}.json.gz"
        try:
            _write(running, path)
        except OSError as error:
            print(f"warning: no profile is written: {path}: {error.strerror}", flush=True)
            return
        self.event("profiled", step=self._end - 1, first=self._first, file=str(path.relative_to(self.run_dir.root)))


def _write(running: profile, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    raw = path.with_name(f".{path.name}.json")
    try:
        running.export_chrome_trace(str(raw))
        text = without_secrets(raw.read_text(encoding="utf-8", errors="replace"))
        json.loads(text)
        part = path.with_name(f".{path.name}")
        with gzip.open(part, "wt", encoding="utf-8") as out:
            out.write(text)
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            raw.unlink(missing_ok=True)
