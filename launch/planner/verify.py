"""Check a layout by running the real code on it: one rank, fake peers, tensors without data, a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from launch.planner.layout import Layout
from trainer.config.load import dump, run_from_values, set_values
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.node.failure import last_error_line

TIMEOUT_SECONDS = 900


def with_layout(config: RunConfig, layout: Layout) -> RunConfig:
    """Return the run with a layout's settings."""
    return run_from_values(set_values(config.model_dump(mode="json"), layout.settings()), "the layout", written=True)


def verify(config: RunConfig, layout: Layout, world: int) -> dict[str, object]:
    """Dry-run rank 0 of a layout and return what it holds, see `trainer.engine.dry_run`.

    Needs torch on this machine, no GPU, and about half a minute. Raises UserError when the layout does not work.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path, log = Path(scratch) / "config.yaml", Path(scratch) / "log"
        path.write_text(dump(with_layout(config, layout)), encoding="utf-8")
        with log.open("wb") as errors:
            done = subprocess.run(
                [sys.executable, "-m", "trainer.engine.dry_run", "--config", str(path), "--world", str(world)],
                env={**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        if done.returncode != 0:
            raise UserError(f"the layout {layout} does not work: {last_error_line(log)}")
        lines = [line for line in done.stdout.decode().splitlines() if line.startswith('{"world"')]
    found: dict[str, Any] = json.loads(lines[-1])
    return found
