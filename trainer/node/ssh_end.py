"""The far end of an SSH connection: `python -m trainer.node.ssh_end` starts a node's agent, never outlives its driver.

The driver speaks on standard input, one JSON object a line; an empty line is a sign of life.

    {"see": FILE, "lost_after": SECONDS, "driver": ID, "run": DIR, "exclusive": BOOL}
        is this file, which the driver just wrote, visible here, and is the host free?
    {"start": [ARGS of trainer.node.agent], "environment": {...}, "directory": DIR}
    {"signal": 15}                                     passed on to the ranks; 9 ends them at once

It answers on standard output, in lines that begin with MARK, for a login shell may print there too:
{"hello": HOST, "sees": BOOL, "address": IP, "busy": WHO}, {"said": TEXT}, {"end": CODE}, and an empty
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

from trainer.contract.exit_codes import EXIT_USER_ERROR
from trainer.node.host_claim import HostClaim
from trainer.node.rank import die_with

MARK = b"escala> "
BEAT_SECONDS = 2.0
ORPHAN_GRACE = 10.0  # between TERM and KILL once nobody listens
SEE_SECONDS = 3.0  # what a network filesystem may take to show a new file


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
        self.claim = HostClaim()
        self.selector = selectors.DefaultSelector()

    def serve(self) -> int:
        """Serve until the agent has ended or the driver is gone."""
        os.write(1, b"\n")  # ends what a login shell printed without a newline
        self.selector.register(0, selectors.EVENT_READ, 0)
        while True:
            for key, _ in self.selector.select(0.2):
                if key.data is None:
                    self.claim.answer()
                else:
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
            self._greet(order)
        elif "start" in order:
            self._start(order)
        elif "signal" in order and self.agent is not None:
            if order["signal"] == signal.SIGKILL:
                self.agent.kill()
            else:
                self.agent.send_signal(order["signal"])

    def _greet(self, order: dict[str, Any]) -> None:
        busy = None
        if order["exclusive"]:
            busy = self.claim.take({"driver": order["driver"], "run": order["run"]})
            if self.claim.socket is not None:
                self.selector.register(self.claim.socket, selectors.EVENT_READ, None)
        deadline = time.monotonic() + SEE_SECONDS
        while not (sees := Path(order["see"]).exists()) and time.monotonic() < deadline:
            time.sleep(0.2)
        address = os.environ.get("SSH_CONNECTION", "- - 127.0.0.1 -").split()[2]
        self.lost_after = order["lost_after"]
        self._say({"hello": socket.gethostname(), "sees": sees, "address": address, "busy": busy})

    def _start(self, order: dict[str, Any]) -> None:
        me = os.getpid()
        directory = Path(order["directory"]).expanduser()
        try:
            self.agent = subprocess.Popen(
                [sys.executable, "-u", "-m", "trainer.node.agent", *order["start"]],
                env={**os.environ, **order["environment"]},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: die_with(me),
            )
        except OSError as error:
            self._say({"said": f"error: the ranks cannot be started in {directory}: {error.strerror}"})
            self._say({"end": EXIT_USER_ERROR})
            return
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
        line = MARK + b"\n" if message is None else MARK + json.dumps(message).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(1, line)


if __name__ == "__main__":
    sys.exit(main())
