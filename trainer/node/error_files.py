"""How the ranks of a node ended: in the error files that torchrun names to them, and in what torchrun itself saw.

Torch 2.13, `torch.distributed.elastic.multiprocessing`: below its `--log-dir`, torchrun makes a directory for each
rank, ID_RANDOM/attempt_RESTART/LOCAL_RANK, and names the file `error.json` there as TORCHELASTIC_ERROR_FILE. It reads
the file of a rank that ended badly (`errors.ProcessFailure`) for its own report: a damaged one would end torchrun
itself. A rank that is killed leaves no such file, so `trainer.node.torchrun` adds `ends.json`, with the code of each.
Free of torch.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from trainer.contract.run_dir import write_atomically
from trainer.node.failure import error_line
from trainer.node.first_failure import Ending

VARIABLE = "TORCHELASTIC_ERROR_FILE"
ENDS = "ends.json"
OUTPUT = "output"  # beside a rank's error file: a link to its log


def write_error(rank: int, code: int, text: str) -> None:
    """Leave this rank's error file: what torch's own handler would write, and who ended how. `text`: the traceback."""
    path, now = os.environ.get(VARIABLE), time.time()
    if not path:  # started without torchrun's directories
        return
    extra = {"py_callstack": text, "timestamp": str(int(now))}  # torch reads whole seconds alone
    own = {"rank": rank, "host": socket.gethostname(), "code": code, "time": now}
    row = {"message": {"message": error_line(text), "extraInfo": extra}, "escala": own}
    write_atomically(Path(path), json.dumps(row) + "\n")


def link_output(log: Path) -> None:
    """Say beside this rank's error file where its output goes."""
    if path := os.environ.get(VARIABLE):
        (Path(path).parent / OUTPUT).symlink_to(log)


def outputs(directory: Path) -> list[Path]:
    """Return the logs of this node's ranks, as far as they have begun."""
    return sorted({link.readlink() for link in directory.glob(f"*/attempt_*/*/{OUTPUT}")})


def endings(directory: Path) -> list[Ending]:
    """Return how this node's ranks ended, in their newest restart: as they say, or else as torchrun saw it."""
    seen = {row["rank"]: Ending(**row) for row in _read(directory / ENDS) or []}
    told = {ending.rank: ending for path in _error_files(directory) if (ending := _ending(path)) is not None}
    return list({**seen, **told}.values())


def _error_files(directory: Path) -> list[Path]:
    """Return the error files of the newest restart."""
    restarts = {int(path.name.rpartition("_")[2]): path for path in directory.glob("*/attempt_*")}
    return list(restarts[max(restarts)].glob("*/error.json")) if restarts else []


def _ending(path: Path) -> Ending | None:
    row = _read(path)
    if row is None or "escala" not in row:
        return None
    return Ending(**row["escala"], message=str(row["message"]["message"]))


def _read(path: Path) -> Any:
    """Return what a file holds; None where it does not exist, or a full disk took a part of it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
