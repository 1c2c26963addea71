"""What this machine has, asked without any driver or library."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path


def local_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES would name them. Asks no driver.

    CUDA counts from 0 what it finds: in a container that was given the machine's fourth GPU alone, /dev/nvidia3 is 0.
    """
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
    found = [path for path in devices.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]
    return [str(index) for index in range(len(found))]


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_port() -> int:
    """Return a TCP port that nobody listens on now. Another process may take it first: callers retry."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
