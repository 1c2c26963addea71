"""What a rank's memory is used for, measured, and what it leaves behind when there is no more."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.contract.plain_json import to_json
from trainer.contract.run_dir import write_atomically
from trainer.engine.engine import Engine
from trainer.engine.peak import memory_peak
from trainer.parallel.tensor.local import local

_CPU_REFUSED = re.compile(r"DefaultCPUAllocator|can't allocate memory|Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that there was no memory: of a GPU, of the host, or of Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_REFUSED.search(str(error)) is not None


def memory_by_part(engine: Engine) -> dict[str, int]:
    """Return the bytes that this rank holds now: `parameters`, `gradients`, `optimizer`; and its `peak` so far.

    `others` is what the peak has beside them: activations, logits and buffers, with FSDP also gathered parameters, on a
    CPU the libraries too. Each storage counts once, where it is met first.
    """
    seen: set[int] = set()
    fragments = list(engine.sharded.fragments())
    parts = {
        "parameters": _bytes(engine.module.parameters(), seen),
        "gradients": _bytes((p.grad for p in engine.module.parameters() if p.grad is not None), seen),
        "optimizer": _bytes((f.weight for f in fragments), seen)
        + _bytes((m for f in fragments for m in engine.sharded.moments(f).values()), seen),
    }
    peak = memory_peak(engine.device)
    return {**parts, "others": max(0, peak - sum(parts.values())), "peak": peak}


def leave_memory(engine: Engine, logs: Path, error: BaseException) -> None:
    """Leave `memory_<r>.json`, of a GPU also `memory_<r>.pickle`, where an error says that there was no memory.

    The latter is torch's own snapshot, for pytorch.org/memory_viz; nothing here ever reads it.
    """
    if not is_out_of_memory(error) or not logs.is_dir():
        return
    rank = engine.mesh.rank
    row: dict[str, Any] = {"rank": rank, "device": str(engine.device), "error": str(error).splitlines()[0][:500]}
    with contextlib.suppress(RuntimeError, AssertionError, OSError, MemoryError):  # the rank has worse to say
        row["memory_bytes"] = memory_by_part(engine)
        write_atomically(logs / f"memory_{rank}.json", to_json(row) + "\n")
        if engine.device.type == "cuda":
            torch.cuda.memory._dump_snapshot(str(logs / f"memory_{rank}.pickle"))


def _bytes(tensors: Iterable[Tensor], seen: set[int]) -> int:
    total = 0
    for tensor in tensors:
        storage = local(tensor).untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total
