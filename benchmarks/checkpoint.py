"""How long a save stalls training: asynchronous against blocking, of the same engine, in one run.

python -m benchmarks.checkpoint --size 10M --ranks 1
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.overhead import random_batch, run_config
from trainer.checkpoint.save import CheckpointWriter
from trainer.engine.build import build_engine
from trainer.models.build import build_model
from trainer.parallel.start import start


def rank_main(rank: int, a: argparse.Namespace, directory: str, results: Any) -> None:
    """Save in both ways in turns; the first rank reports."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(a.ranks), LOCAL_RANK="0", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=a.ranks)
    config = run_config(a.size, 1, 1, 2)
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
    for turn in range(a.turns + 1):
        for kind, writer in writers.items():
            dist.barrier()
            began = time.perf_counter()
            writer.save(turn, {})
            if turn:  # the first save of each meets a cold memory allocator
                seconds[kind].append(time.perf_counter() - began)
            writer.wait()
    if rank == 0:
        size = sum(path.stat().st_size for path in (Path(directory) / "blocking" / "step_000000001").iterdir())
        results.put((seconds, size))
    for writer in writers.values():
        writer.close()
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="10M")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    a = parser.parse_args()
    context = mp.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as directory:
        ranks = [context.Process(target=rank_main, args=(rank, a, directory, results)) for rank in range(a.ranks)]
        for process in ranks:
            process.start()
        seconds, size = results.get(timeout=600)
        for process in ranks:
            process.join()
    stall = {kind: statistics.median(values) for kind, values in seconds.items()}
    figures = {f"{kind}_ms": round(1000 * value, 1) for kind, value in stall.items()}
    share = round(stall["asynchronous"] / stall["blocking"], 3)
    print(json.dumps({"size": a.size, "ranks": a.ranks, "megabytes": round(size / 1e6), **figures, "share": share}))


if __name__ == "__main__":
    main()
