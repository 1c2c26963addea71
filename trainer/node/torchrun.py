"""`torchrun` that writes down how its ranks ended: `python -m trainer.node.torchrun DIR SECONDS ARGUMENTS OF TORCHRUN`.

DIR is its `--log-dir`. The error that torchrun ends with lists every rank of this node that ended badly, those too that
were killed and could leave no error file. It goes into DIR/ends.json before torchrun prints it, and SECONDS pass before
the process and its store are gone: without the store, torchrun on other nodes ends their ranks before anybody has asked
them where they are.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.contract.run_dir import write_atomically
from trainer.node.error_files import ENDS

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def main(directory: Path, stays: float, arguments: list[str]) -> None:
    """Run torchrun to its end. Raises what it raises, after so many seconds where a rank failed."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun([f"--log-dir={directory}", *arguments])
    except ChildFailedError as error:
        rows = [_row(order, rank, failure) for order, (rank, failure) in enumerate(error.failures.items())]
        write_atomically(directory / ENDS, json.dumps(rows) + "\n")
        time.sleep(stays)
        raise


def _row(order: int, rank: int, failure: ProcessFailure) -> dict[str, Any]:
    """Return one rank's end. They are listed in the order in which torchrun noticed them, which had whole seconds.

    So a rank's own record of the same second is earlier.
    """
    seen = failure.timestamp + 1 + order * 1e-6
    return {"rank": rank, "host": socket.gethostname(), "code": failure.exitcode, "time": seen}


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
