"""Ranks as processes of their own, for machines with GPUs: a process that has touched CUDA cannot be forked.

The same four methods as `RankPool`, so that the local backend does not care.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.node.rank import die_with

POLL_SECONDS = 0.05
CLOSE_GRACE = 10.0


class ProcessPool:
    """Starts each rank anew. When this process ends, in whatever way, the kernel ends the ranks."""

    def __init__(self, python: str) -> None:
        self.python = python
        self.ranks: dict[str, subprocess.Popen[bytes]] = {}

    def fork(self, identity: str, argv: Sequence[str], environment: Mapping[str, str], cwd: Path, log: Path) -> None:
        """Start one rank."""
        me = os.getpid()
        with log.open("ab") as out:
            self.ranks[identity] = subprocess.Popen(
                [self.python, "-m", "trainer.node.logged", str(log), *argv],
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=lambda: prepare_child(me),
            )

    def signal(self, identity: str, number: int) -> None:
        """Send a signal to a rank; KILL also ends what it has started."""
        rank = self.ranks.get(identity)
        if rank is None:
            return
        if number == signal.SIGKILL:
            _kill_group(rank.pid)
        rank.send_signal(number)

    def events(self, timeout: float) -> list[dict[str, Any]]:
        """Return the ranks that have ended, waiting up to `timeout` seconds for the first."""
        deadline = time.monotonic() + timeout
        while True:
            ended = {name: rank for name, rank in self.ranks.items() if rank.poll() is not None}
            if ended or time.monotonic() >= deadline:
                break
            time.sleep(POLL_SECONDS)
        for name, rank in ended.items():
            _kill_group(rank.pid)  # helpers that the rank left behind
            del self.ranks[name]
        return [{"exited": name, "code": rank.returncode} for name, rank in ended.items()]

    def close(self) -> None:
        """End every rank that still runs."""
        for rank in self.ranks.values():
            rank.terminate()
        deadline = time.monotonic() + CLOSE_GRACE
        for rank in self.ranks.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                rank.wait(max(0.0, deadline - time.monotonic()))
            _kill_group(rank.pid)
            rank.wait()
        self.ranks.clear()


def prepare_child(parent: int) -> None:
    """Have a new process end with its parent, and not die of the signal that asks ranks where they are."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    die_with(parent)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
