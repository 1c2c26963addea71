"""Join the world: the one place that starts torch.distributed."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from trainer.config.parallel import ParallelConfig, resolve_degrees
from trainer.contract.errors import UserError
from trainer.parallel.mesh import Mesh, build_mesh
from trainer.plan.gpus import SLOTS_VARIABLE, slot_bytes


def world_from_environment() -> tuple[int, int, int]:
    """Return (rank, world, local rank) as torchrun sets them; a process that it did not start is a world of one."""
    values = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1"), os.environ.get("LOCAL_RANK", "0")
    return int(values[0]), int(values[1]), int(values[2])


def resolve_device(choice: str) -> torch.device:
    """Return the device of this rank for `auto`, `cpu` or `cuda`."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise UserError("device is 'cuda', but torch sees no GPU here: set device to 'auto' or 'cpu'")
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", world_from_environment()[2])


def join_world(timeout_seconds: float, device: torch.device) -> None:
    """Initialise the world from torchrun's environment, once: ranks can tell one another what they read after this."""
    rank, world, local_rank = world_from_environment()
    timeout = timedelta(seconds=timeout_seconds)
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
    if device.type == "cuda":
        torch.cuda.set_device(device)
        keep_to_slot(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=timeout)
        else:
            dist.init_process_group(backend, store=HashStore(), rank=rank, world_size=world, timeout=timeout)


def keep_to_slot(device: torch.device) -> None:
    """Have the allocator of a rank that shares its GPU take no more than its share: others get theirs."""
    slots = int(os.environ.get(SLOTS_VARIABLE, "1"))
    if slots > 1:
        memory = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0, slot_bytes(memory, slots)) / memory, device)


def start(config: ParallelConfig, device: torch.device) -> Mesh:
    """Join the world, where that is not done yet, and return the mesh.

    Raises `UserError` for degrees that do not fit the world, before any process is waited for.
    """
    degrees = resolve_degrees(config, world_from_environment()[1])
    join_world(config.timeout_seconds, device)
    return build_mesh(degrees, config.timeout_seconds)
