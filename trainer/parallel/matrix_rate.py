"""The rate of large matrix products on this machine's first GPU: `python -m trainer.parallel.matrix_rate`.

Prints {"name": NAME, "flops": FLOP/s}, of bf16. Without a GPU that torch can use it ends with code 1.
"""

from __future__ import annotations

import json
import sys
import time

import torch

SIDE = 8192  # of the matrices
REPEATS = 20


def gpu_rate(device: torch.device) -> float:
    """Return the best FLOP/s of a few series of products."""
    a = torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(REPEATS):
            a @ a
        torch.cuda.synchronize(device)
        best = max(best, REPEATS * 2 * SIDE**3 / (time.perf_counter() - began))
    return best


def main() -> int:
    """Entry point."""
    if not torch.cuda.is_available():
        return 1
    device = torch.device("cuda", 0)
    print(json.dumps({"name": torch.cuda.get_device_name(device), "flops": gpu_rate(device)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
