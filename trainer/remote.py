"""The far end of one SSH connection: `python -m trainer.remote` starts a node's agent and never outlives its driver.

The driver speaks on standard input, one JSON object a line; an empty line is a sign of life.

    {"see": FILE, "lost_after": SECONDS}               is this file, which the driver just wrote, visible here?
    {"start": [ARGS of trainer.agent], "environment": {...}, "directory": DIR}
    {"signal": 15}                                     passed on to the ranks; 9 ends them at once

It answers on standard output: {"hello": HOST, "sees": BOOL, "address": IP}, {"said": TEXT}, {"end": CODE}, and an empty
line every two seconds. When the driver is silent for too long, or its end of the connection closes, every rank ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trainer.rank import die_with

BEAT_SECONDS = 2.0
ORPHAN_GRACE = 10.0  # between TERM and KILL once nobody listens


def main() -> int:
    """Serve one driver until its job has ended here, and return the agent's exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return Remote().serve()


class Remote:
    """One connection and at most one agent."""

    def __init__(self) -> None:
        self.agent: subprocess.Popen[bytes] | None = None
        self.buffers = {0: b"", 1: b""}
        self.heard = self.sent = time.monotonic()
        self.lost_after = 60.0  # until the driver says otherwise
        self.kill_at: float | None = None
        self.selector = selectors.DefaultSelector()

    def serve(self) -> int:
        self.selector.register(0, selectors.EVENT_READ, 0)
        while True:
            for key, _ in self.selector.select(0.2):
                self._read(key.fd, key.data)
            now = time.monotonic()
            if now - self.sent > BEAT_SECONDS:
                self._say(None)
            if now - self.heard > self.lost_after:
                self._orphaned()
            if self.kill_at is not None and now > self.kill_at and self.agent is not None:
                self.agent.kill()  # the kernel ends torchrun and the ranks with it
            if self.agent is not None and self.agent.poll() is not None:
                return self._ended(self.agent)
            if self.agent is None and self.kill_at is not None:
                return 1

    def _read(self, descriptor: int, stream: int) -> None:
        data = os.read(descriptor, 65536)
        if not data:
            self.selector.unregister(descriptor)
            if stream == 0:
                self._orphaned()
            return
        *lines, self.buffers[stream] = (self.buffers[stream] + data).split(b"\n")
        for line in lines:
            if stream == 1:
                self._say({"said": line.decode("utf-8", "replace")})
            else:
                self.heard = time.monotonic()
                if line:
                    self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        if "see" in order:
            address = os.environ.get("SSH_CONNECTION", "- - 127.0.0.1 -").split()[2]
            sees, self.lost_after = Path(order["see"]).exists(), order["lost_after"]
            self._say({"hello": socket.gethostname(), "sees": sees, "address": address})
        elif "start" in order:
            self._start(order)
        elif "signal" in order and self.agent is not None:
            if order["signal"] == signal.SIGKILL:
                self.agent.kill()
            else:
                self.agent.send_signal(order["signal"])

    def _start(self, order: dict[str, Any]) -> None:
        me = os.getpid()
        self.agent = subprocess.Popen(
            [sys.executable, "-u", "-m", "trainer.agent", *order["start"]],
            env={**os.environ, **order["environment"]},
            cwd=order["directory"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: die_with(me),
        )
        assert self.agent.stdout is not None
        self.selector.register(self.agent.stdout, selectors.EVENT_READ, 1)

    def _orphaned(self) -> None:
        if self.kill_at is None:
            self.kill_at = time.monotonic() + ORPHAN_GRACE
            if self.agent is not None:
                self.agent.terminate()

    def _ended(self, agent: subprocess.Popen[bytes]) -> int:
        if agent.stdout is not None:
            for line in (self.buffers[1] + agent.stdout.read()).splitlines():
                self._say({"said": line.decode("utf-8", "replace")})
        self._say({"end": agent.returncode})
        return 0

    def _say(self, message: dict[str, Any] | None) -> None:
        self.sent = time.monotonic()
        line = b"\n" if message is None else json.dumps(message).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(1, line)


if __name__ == "__main__":
    sys.exit(main())
