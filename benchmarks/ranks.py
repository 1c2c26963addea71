"""Ranks of a benchmark on this machine, each a process with one thread."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import start_processes


def measured_by_ranks(measure: Callable[..., Any], world: int, *arguments: Any) -> Any:
    """Return what `measure(*arguments)` gave on the first of `world` ranks over gloo. Raises what any rank raised."""
    results = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as directory:
        shared = (world, f"{directory}/store", measure, arguments, results)
        ranks = start_processes(_rank, shared, nprocs=world, join=False, start_method="spawn")
        while not ranks.join():
            pass
    return results.get()


def _rank(rank: int, world: int, store: str, measure: Callable[..., Any], arguments: tuple, results: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    found = measure(*arguments)
    if rank == 0:
        results.put(found)
    dist.barrier()
    dist.destroy_process_group()
