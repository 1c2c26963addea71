"""Failures that are planted, and what must be said of each: the cause, and the place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """One kind of failure of a rank. `cause` is a part of what must be said."""

    how: str
    cause: str
    victim: int = 1


AFTER_START = [
    Planted("raise", "RuntimeError: rank 1 was told to fail [/x]"),
    Planted("import", "ModuleNotFoundError: No module named 'a_module_that_is_not_installed'"),
    Planted("kill", "signal SIGKILL: killed from outside", victim=0),
    Planted("kill", "signal SIGKILL: killed from outside", victim=1),
    Planted("segv", "signal SIGSEGV: Fatal Python error: Segmentation fault"),
    Planted("memory", "MemoryError"),
    Planted("allocator", "can't allocate memory"),
    Planted("disk", "OSError: [Errno 27] File too large", victim=0),
    Planted("data", "no-such-shard.bin"),
    Planted("permission", "Permission denied: '/data/set'", victim=0),
    Planted("ecc", "uncorrectable ECC error"),
    Planted("port", "Address already in use"),
    Planted("user", "error: tensor 3 does not divide 4 heads", victim=0),
    Planted("diverged", "error: the loss is not a number at step 7", victim=0),
    Planted("silent", "exit code 3", victim=0),
    Planted("watchdog", "watchdog: no step finished for"),
    Planted("stall", "at data/read/batches.py:"),
    Planted("timeout", "Timed out waiting", victim=0),  # only its peers can tell
]

KINDS = {  # what `escala why` calls each
    "raise": "error", "import": "missing package", "kill": "killed from outside", "segv": "crash in native code",
    "memory": "out of memory", "disk": "disk full", "data": "missing file", "port": "port in use", "user": "a setting",
    "diverged": "not a number", "silent": "error", "watchdog": "stalled", "timeout": "a rank did not answer",
    "allocator": "out of memory", "permission": "no permission", "ecc": "GPU fault", "stall": "data stall",
}  # fmt: skip


def name_of(planted: Planted) -> str:
    return f"{planted.how}-{planted.victim}"
