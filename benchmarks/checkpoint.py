"""How long a save stalls training: asynchronous against blocking, of the same engine, in one run.

python -m benchmarks.checkpoint --size 10M --ranks 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.overhead import random_batch, run_config
from benchmarks.ranks import measured_by_ranks
from trainer.checkpoint.save import CheckpointWriter
from trainer.engine.build import build_engine
from trainer.models.build import build_model
from trainer.parallel.start import start


def measure(size: str, turns: int, directory: str) -> tuple[dict[str, list[float]], int]:
    """Save in both ways in turns; return the seconds of each way's saves, and the bytes of a checkpoint."""
    config = run_config(size, 1, 1, 2)
    mesh = start(config.parallel, torch.device("cpu"))
    engine = build_engine(
        config, build_model(config.model, 0), mesh, lr=1e-3, accumulation=1, device=torch.device("cpu")
    )
    engine.train_step([random_batch(mesh.dp_rank, 2)], 1e-3)
    writers = {
        kind: CheckpointWriter(engine, Path(directory) / kind, asynchronous=kind == "asynchronous")
        for kind in ("asynchronous", "blocking")
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in writers}
    for turn in range(turns + 1):
        for kind, writer in writers.items():
            dist.barrier()
            began = time.perf_counter()
            writer.save(turn, {})
            if turn:  # the first save of each meets a cold memory allocator
                seconds[kind].append(time.perf_counter() - began)
            writer.wait()
    for writer in writers.values():
        writer.close()
    dist.barrier()
    size_in_bytes = sum(path.stat().st_size for path in (Path(directory) / "blocking" / "step_000000001").iterdir())
    return seconds, size_in_bytes


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="10M")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        seconds, size = measured_by_ranks(measure, a.ranks, a.size, a.turns, directory)
    stall = {kind: statistics.median(values) for kind, values in seconds.items()}
    figures = {f"{kind}_ms": round(1000 * value, 1) for kind, value in stall.items()}
    share = round(stall["asynchronous"] / stall["blocking"], 3)
    print(json.dumps({"size": a.size, "ranks": a.ranks, "megabytes": round(size / 1e6), **figures, "share": share}))


if __name__ == "__main__":
    main()
