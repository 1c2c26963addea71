"""Text that a run's checkpoints make of fixed prompts (`tracking.prompts`): samples.jsonl, which W&B mirrors.

The process that sends to W&B has it made, beside training and at low priority, on the processor of the first node. A
checkpoint that comes while the one before is still decoded waits, and the newest alone is taken.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from trainer.contract.hiding import without_secrets
from trainer.contract.run_dir import RunDir, append_json
from trainer.observe.observers import Row

FILE, KIND = "samples.jsonl", "sample"
TOKENS, LONGEST = 64, 600.0  # of a continuation, seconds for all prompts
PROGRAM = "trainer.decoding.sample"


class Decoding(NamedTuple):
    """A checkpoint that is decoded. What comes of it goes to a file, for a pipe that nobody reads fills up."""

    step: int
    process: subprocess.Popen[str]
    told: IO[str]


class Samples:
    """Has checkpoints decoded one after the other."""

    def __init__(self, run_dir: RunDir, prompts: Sequence[str]) -> None:
        self._run_dir, self._prompts = run_dir, list(prompts)
        self._decoding: Decoding | None = None
        self._waiting: int | None = None

    def after(self, events: Sequence[Row]) -> None:
        """Take the newest checkpoint that these events tell of."""
        steps = [row["step"] for row in events if row.get("event") == "saved" and isinstance(row.get("step"), int)]
        if steps and self._prompts:
            self._waiting = steps[-1]
        if self._waiting is not None and self._decoding is None:
            self._start(self._waiting)
            self._waiting = None

    def rows(self, *, wait: bool = False) -> list[Row]:
        """Return, and write down, what is decoded by now; with `wait` all of it."""
        found = self._taken(wait)
        self.after([])
        return found + (self._taken(wait) if wait else [])

    def _start(self, step: int) -> None:
        request = {
            "run": str(self._run_dir.root), "prompts": self._prompts, "compare": False, "json": True,
            "settings": {"decoder": "greedy", "tokens": TOKENS},
        }  # fmt: skip
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # steps have the GPUs
        told = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed when it is read
        process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM], env=environment, stdin=subprocess.PIPE, stdout=told, stderr=sys.stderr,
            text=True,
        )  # fmt: skip
        assert process.stdin is not None
        with process.stdin as asked:
            asked.write(json.dumps(request))
        self._decoding = Decoding(step, process, told)

    def _taken(self, wait: bool) -> list[Row]:
        if self._decoding is None or (not wait and self._decoding.process.poll() is None):
            return []
        (step, process, told), self._decoding = self._decoding, None
        try:
            process.wait(LONGEST if wait else None)
        except subprocess.TimeoutExpired:
            process.kill()
        with told:
            told.seek(0)
            lines = told.read().splitlines() if process.wait() == 0 else []
        rows = [_row(step, number, json.loads(line)) for number, line in enumerate(lines)]
        if rows:
            append_json(self._run_dir.root / FILE, *rows)
        return rows


def _row(step: int, number: int, told: dict[str, Any]) -> Row:
    prompt, text = without_secrets(str(told["prompt"])), without_secrets(str(told["texts"][0]))
    return {"kind": KIND, "step": step, "eval_set": str(number), "prompt": prompt, "text": text}
