"""Who ran what: code revision, versions, host. It goes into run.json and into every row of the ledger."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("escala", "torch", "deepspeed", "accelerate", "datasets", "sentencepiece", "wandb", "numpy")


def git_revision(directory: Path | None = None) -> str | None:
    """Return the commit of the code, with `+` where files differ from it; None outside a checkout."""
    where = directory or Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=where, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def process_started() -> float:
    """Return when this process began, in seconds since the epoch."""
    return float(psutil.Process().create_time())


def provenance() -> dict[str, object]:
    """Return what identifies this process, its machine and its code."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": int(process_started()),  # a later process with this number is another one
        "platform": platform.platform(),
        "git_revision": git_revision(),
        "versions": versions(),
        "attempt": int(os.environ.get("ESCALA_ATTEMPT", "0")),
    }
