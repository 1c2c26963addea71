"""Seconds from the start of a process to the end of its first step: without compiling, cold, and from torch's cache.

Each is a process of its own, `python -m benchmarks.gpu.first_step DEVICE COMPILE [tiny]`, which prints when it came to
what, by time.time().
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu.setting import Row, Setting
from benchmarks.gpu.throughput import LARGE, SMALL
from trainer.node.compile_cache import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0  # seconds


def measure(setting: Setting) -> list[Row]:
    """Return a row for each process, at the shape of `throughput`."""
    setting.forget()
    rows: list[Row] = []
    cases = {"not compiled": "false", "compiled, cold": "blocks", "compiled, warm": "blocks"}
    with tempfile.TemporaryDirectory() as cache:
        for name, compiled in setting.in_time({"not compiled": "false"} if setting.tiny else cases):
            command = [sys.executable, "-m", "benchmarks.gpu.first_step", setting.device.type, compiled]
            command += ["tiny"] if setting.tiny else []
            environment = {**os.environ, VARIABLE: cache}
            began = time.time()
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
            if done.returncode != 0:
                raise RuntimeError(f"{name}: {done.stderr[-1000:]}")
            told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            rows.append({"first step": name, **{f"{what}, s": at - began for what, at in told.items()}})
    return rows


def main() -> None:
    """Build the engine, take two steps, and print when each part was done."""
    kind, compiled, *tiny = sys.argv[1:]
    told = {"imported": time.time()}
    device = torch.device(kind, 0) if kind == "cuda" else torch.device("cpu")
    setting = Setting(device, bool(tiny), Path())
    setting.join()
    shape, sequences = (SMALL, 2) if tiny else (LARGE, 16)
    parallel = {"engine": "fsdp", "zero_stage": 1, "compile": False if compiled == "false" else compiled}
    config = setting.config(shape, sequences, precision="bf16", parallel=parallel)
    built, batch = setting.engine(config), setting.batch(config)
    told["built"] = time.time()
    for name in ("first step", "second step"):
        built.train_step([batch], 1e-4)
        told[name] = time.time()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
