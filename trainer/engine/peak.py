"""The peak FLOP/s of one rank's device, against which MFU counts, and the peak of the memory that it has used."""

from __future__ import annotations

import resource
import sys
import time

import torch

from trainer.plan.gpus import gpu_of_driver

SIDE, SECONDS = 768, 0.1  # of the matrices that a CPU multiplies, and for how long


def peak_flops(device: torch.device) -> float | None:
    """Return the dense 16-bit peak of a GPU by its data sheet, or the measured fp32 rate of this rank's cores.

    None for a GPU that the table does not have.
    """
    if device.type == "cuda":
        gpu = gpu_of_driver(torch.cuda.get_device_name(device))
        return None if gpu is None else gpu.flops
    return _measured()


def _measured() -> float:
    """Return the best rate of a large product, with as many threads as training has."""
    a = torch.ones(SIDE, SIDE)
    best, until = 0.0, time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * SIDE**3 / (time.perf_counter() - began))
    return best


def memory_peak(device: torch.device) -> int:
    """Return the most bytes that this process has held at once: of the GPU's allocator, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
