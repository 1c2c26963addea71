"""What this node's ranks print, printed by its agent too: where a log is what a container prints (`kubectl logs`)."""

from __future__ import annotations

import contextlib
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
        with contextlib.suppress(OSError):  # a filesystem that is away, a reader that has gone: no reason to end a run
            for log in outputs(self.directory):
                self._print_new(log, last)
            self.out.flush()

    def _print_new(self, log: Path, last: bool) -> None:
        with log.open("rb") as file:
            file.seek(self.offsets.get(log, 0))
            data = file.read()
        if not last:
            data = data[: data.rfind(b"\n") + 1]
        self.offsets[log] = self.offsets.get(log, 0) + len(data)
        label = f"[{log.stem.removeprefix('rank_')}] ".encode()
        self.out.write(b"".join(label + line + b"\n" for line in data.splitlines()))
