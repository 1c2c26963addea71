"""The rate of large matrix products on this machine's first device: `python -m trainer.parallel.matrix_rate`.

Prints {"name": NAME, "flops": FLOP/s}: bf16 on a GPU, float32 on a processor.
"""

from __future__ import annotations

import json
import time

import torch

SIDE, SMALL_SIDE = 8192, 512  # of the matrices on a GPU and on a processor
REPEATS = 20


def matrix_rate(device: torch.device) -> float:
    """Return the best FLOP/s of a few series of products."""
    gpu = device.type == "cuda"
    side = SIDE if gpu else SMALL_SIDE
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(REPEATS):
            a @ a
        if gpu:
            torch.cuda.synchronize(device)
        best = max(best, REPEATS * 2 * side**3 / (time.perf_counter() - began))
    return best


def main() -> None:
    """Entry point."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(json.dumps({"name": name, "flops": matrix_rate(device)}))


if __name__ == "__main__":
    main()
