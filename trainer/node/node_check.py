"""What one node says about itself, as one JSON line: `python -m trainer.node.node_check --meet DIR --nodes N`.

Every node writes a file into DIR and waits until it sees those of all: only a shared filesystem passes. Free of torch.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer.node.names import own_name

PACKAGES = ("torch", "deepspeed", "datasets", "sentencepiece", "wandb", "numpy", "pydantic")
MEET_SECONDS = 15.0
WANDB_SECONDS = 3.0


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Describe this node.")
    parser.add_argument("--meet", type=Path, required=True, help="directory that all nodes should share")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--wandb", default=os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    arguments = parser.parse_args()
    print(json.dumps(describe(arguments.meet, arguments.nodes, arguments.wandb)), flush=True)


def describe(meet: Path, nodes: int, wandb: str) -> dict[str, object]:
    """Return this node's report."""
    return {
        "host": own_name(),
        "time": time.time(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "gpus": gpus(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": memory(),
        "disk_free": free(meet),
        "shm_free": free(Path("/dev/shm")),  # noqa: S108 - measured, not written
        "wandb": reachable(wandb),
        "port": can_listen(),
        **seen_by_all(meet, nodes),
    }


def version(package: str) -> str | None:
    """Return the installed version without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpus() -> list[dict[str, Any]]:
    """Return what `nvidia-smi` says, an empty list where there is none."""
    fields = "name,memory.total,driver_version,ecc.errors.uncorrected.volatile.total"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.count(",") >= 3]
    return [{"name": r[0], "memory_mib": int(r[1]), "driver": r[2], "ecc_errors": r[3]} for r in rows if r[1].isdigit()]


def memory() -> int:
    """Return the bytes of memory that are available; 0 where the system does not say."""
    path = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", path.read_text()) if path.exists() else None
    return int(found[1]) * 1024 if found else 0


def free(path: Path) -> int:
    """Return free bytes at the nearest directory that exists."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def can_listen() -> bool:
    """Tell whether a TCP port can be opened for the rendezvous."""
    with socket.socket() as probe:
        try:
            probe.bind(("", 0))
            probe.listen(1)
        except OSError:
            return False
        return True


def reachable(url: str) -> bool:
    """Tell whether the server behind a URL accepts connections."""
    parts = urlsplit(url)
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), WANDB_SECONDS
        ).close()
    except OSError:
        return False
    return True


def seen_by_all(meet: Path, nodes: int) -> dict[str, object]:
    """Write a file, wait for those of the other nodes, and tell how many were seen and how long writing took."""
    name = f"{own_name()}-{os.getpid()}.node"
    began = time.monotonic()
    try:
        meet.mkdir(parents=True, exist_ok=True)
        with (meet / name).open("w") as out:
            out.write(name)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        return {"seen": 0, "write_error": str(error), "write_seconds": None}
    written = time.monotonic() - began
    deadline = time.monotonic() + MEET_SECONDS
    while len(list(meet.glob("*.node"))) < nodes and time.monotonic() < deadline:
        time.sleep(0.1)
    return {"seen": len(list(meet.glob("*.node"))), "write_error": None, "write_seconds": written}


if __name__ == "__main__":
    main()
