"""How long an asynchronous save of about a gigabyte stalls training, against a blocking one."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.setting import Row, Setting
from trainer.checkpoint.save import CheckpointWriter

TURNS = 3


def measure(setting: Setting) -> list[Row]:
    """Save a model of 85M parameters with its moments, in turns; the first save of each kind is not counted."""
    model = {"size": "10k" if setting.tiny else "85M", "vocab_size": 256, "context_length": 64}
    config = setting.config(model, 2, parallel={"engine": "fsdp"})
    built = setting.engine(config)
    built.train_step([setting.batch(config)], 1e-4)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        for asynchronous in (True, False):
            kind = "asynchronous" if asynchronous else "blocking"
            writer, stalls = CheckpointWriter(built, Path(directory) / kind, asynchronous=asynchronous), []
            for turn in range(TURNS + 1):
                setting.wait()
                began = time.perf_counter()
                writer.save(turn, {})
                stalls.append(time.perf_counter() - began)
                writer.wait()
            writer.close()
            newest = Path(directory) / kind / f"step_{TURNS:09d}"
            size = sum(path.stat().st_size for path in newest.iterdir())
            rows.append({"save": kind, "GB": size / 1e9, "stall, ms": 1000 * statistics.median(stalls[1:])})
    built.close()
    return rows
