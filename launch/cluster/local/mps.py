"""NVIDIA's Multi-Process Service around the ranks of one process, where it can be started. Never run on a GPU so far.

The daemon and its clients meet in a directory of their own, so one that an administrator runs is left alone, and so are
other users' processes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from launch.cluster.local.cold import prepare_child

PROGRAM = "nvidia-cuda-mps-control"
SOCKET = "control"  # in the daemon's directory, once it listens
START_SECONDS = 5.0
END_SECONDS = 10.0
PIPES = "CUDA_MPS_PIPE_DIRECTORY"


class Mps:
    """A daemon of MPS. Where it is missing or does not start, kernels of several processes take turns."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.outside = dict(environment)
        self.program = shutil.which(PROGRAM, path=self.outside.get("PATH"))
        self.directory: Path | None = None
        self.daemon: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """What clients must know; nothing while there is no daemon of ours."""
        return {PIPES: str(self.directory)} if self.daemon is not None else {}

    def start(self, log: Path) -> None:
        """Start the daemon and wait until it listens."""
        if self.daemon is not None or PIPES in self.outside or self.program is None:
            return  # it runs, somebody else's does, or it cannot
        me, self.directory = os.getpid(), Path(tempfile.mkdtemp(prefix="escala-mps-"))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self.daemon = subprocess.Popen(
                [self.program, "-f"],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=lambda: prepare_child(me),
            )
        deadline = time.monotonic() + START_SECONDS
        while self.daemon.poll() is None and time.monotonic() < deadline:
            if (self.directory / SOCKET).exists():
                return
            time.sleep(0.05)
        code = self.daemon.poll()
        why = f"ended with code {code}" if code is not None else f"does not listen after {START_SECONDS:.0f} s"
        self.close()
        with log.open("a") as out:
            print(f"{PROGRAM} {why}: ranks take turns on a GPU", file=out)

    def close(self) -> None:
        """Ask the daemon to quit, and end it where it does not."""
        if self.daemon is None or self.directory is None or self.program is None:
            return
        daemon, self.daemon = self.daemon, None
        if daemon.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired, OSError):
                subprocess.run(
                    [self.program], input=b"quit\n", env=self._environment(), timeout=END_SECONDS, capture_output=True
                )
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(END_SECONDS)
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        return {**self.outside, PIPES: str(self.directory), "CUDA_MPS_LOG_DIRECTORY": str(self.directory)}
