"""What this node's ranks print, printed by its agent too: where a log is what a container prints (`kubectl logs`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

from trainer.node.error_files import outputs


class Echo:
    """Prints the new lines of ranks, each with `[RANK] ` in front. `directory` is that of their error files."""

    def __init__(self, directory: Path, out: IO[bytes] | None = None) -> None:
        self.directory = directory
        self.out = out or sys.stdout.buffer
        self.offsets: dict[Path, int] = {}

    def go_on(self, *, last: bool = False) -> None:
        """Print what was written since the last call. Unless it is the `last`, a line that has no end yet waits."""
        for log in outputs(self.directory):
            with log.open("rb") as file:
                file.seek(self.offsets.get(log, 0))
                data = file.read()
            if not last:
                data = data[: data.rfind(b"\n") + 1]
            self.offsets[log] = self.offsets.get(log, 0) + len(data)
            label = f"[{log.stem.removeprefix('rank_')}] ".encode()
            for line in data.splitlines():
                self.out.write(label + line + b"\n")
        self.out.flush()
