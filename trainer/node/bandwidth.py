"""An all-reduce over all ranks, measured: `python -m trainer.node.bandwidth --out FILE`, started like any job.

The bus bandwidth is 2 (n-1)/n of the bytes over the time, which does not depend on the number of ranks
(NVIDIA, nccl-tests, PERFORMANCE.md).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

MEGABYTES = 64
TIMES = 5


def main() -> None:
    """Entry point of one rank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(seconds=60))
    rank, world = dist.get_rank(), dist.get_world_size()
    values = torch.full((MEGABYTES * 2**20 // 4,), float(rank), device=device)
    dist.all_reduce(values)
    expected = world * (world - 1) / 2
    right = bool((values == expected).all())
    seconds = measure(values)
    if rank == 0:
        bus = values.nbytes * 2 * (world - 1) / world / seconds
        arguments.out.write_text(json.dumps({"world": world, "right": right, "seconds": seconds, "bus": bus}) + "\n")
    dist.destroy_process_group()


def measure(values: torch.Tensor) -> float:
    """Return the mean seconds of one all-reduce."""
    dist.barrier()
    began = time.perf_counter()
    for _ in range(TIMES):
        dist.all_reduce(values)
    if values.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / TIMES


if __name__ == "__main__":
    main()
