"""Where a rank is among its peers: the last collective of each of its process groups, from torch's flight recorder.

A rank leaves it as `position_<r>.json` beside its log when it is asked (SIGUSR2), when its watchdog ends it, and when
it ends with an error. Side by side they tell which rank the others waited for: the one that began fewer collectives.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from torch._C import _distributed_c10d as c10d

from trainer.contract.run_dir import utc_now, write_atomically

ENTRIES = "256"  # that the recorder keeps: the last of each group is among them
VARIABLE = "TORCH_FR_BUFFER_SIZE"


def record_collectives() -> None:
    """Switch torch's flight recorder on. It counts from the first process group on that is made after this."""
    os.environ.setdefault(VARIABLE, ENTRIES)


def last_collectives() -> list[dict[str, Any]]:
    """Return the last collective of each process group of this rank, the newest first.

    `number` counts those of the group, the same on all its ranks; `finished` is false while the rank waits in it.
    """
    newest: dict[str, dict[str, Any]] = {}
    entries = json.loads(c10d._dump_fr_trace_json()).get("entries") or []  # type: ignore[attr-defined]
    for entry in sorted(entries, key=lambda entry: int(entry["record_id"])):
        if not entry.get("is_p2p"):
            newest[str(entry["process_group"][0])] = entry
    return [
        {
            "group": group,
            "number": entry["collective_seq_id"],
            "name": entry["profiling_name"],
            "sizes": entry["input_sizes"],
            "finished": bool(entry["retired"]) or entry["state"] == "completed",
        }
        for group, entry in sorted(newest.items(), key=lambda item: -int(item[1]["record_id"]))
    ]


def write_position(logs: Path, rank: int, why: str) -> None:
    """Leave `position_<r>.json`. What cannot be read or written is left out: the rank has worse to say."""
    row: dict[str, Any] = {"rank": rank, "host": socket.gethostname(), "time": utc_now(), "why": why}
    with contextlib.suppress(ValueError, KeyError, RuntimeError):
        row["collectives"] = last_collectives()
    with contextlib.suppress(OSError):
        if logs.is_dir():
            write_atomically(logs / f"position_{rank}.json", json.dumps(row) + "\n")
