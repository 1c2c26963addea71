"""What this attempt costs, from the device of the first rank: all ranks have the same."""

from __future__ import annotations

import os

import torch

from trainer.observe.costs import CORES, GPUS, Costs, price_from_environment
from trainer.observe.energy import cpu_counter, gpu_counter, since_now


def open_costs(device: torch.device, world: int, *, counted: bool = True) -> Costs:
    """Return the costs of `world` ranks with a device such as this one. Energy is measured where it is `counted`."""
    price = price_from_environment()
    if device.type == "cuda":
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return Costs(GPUS, world, price, since_now(gpu_counter(uuid) if counted else None, world))
    nodes = max(1, world // int(os.environ.get("LOCAL_WORLD_SIZE", world)))
    energy = since_now(cpu_counter() if counted else None, nodes)
    return Costs(CORES, world * torch.get_num_threads(), price, energy)
