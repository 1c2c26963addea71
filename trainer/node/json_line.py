"""JSON messages, one a line, over a TCP connection. Free of torch."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any


class Line:
    """One connection. Whatever arrives that is no message ends it."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.ended = False
        self.rest = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        with contextlib.suppress(OSError):  # the far end has gone: the next read says so
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> list[dict[str, Any]]:
        """Return what has arrived. Whatever is no message of ours ends the line."""
        try:
            data = self.socket.recv(65536)
        except (TimeoutError, BlockingIOError):
            return []
        except OSError:
            data = b""
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.ended = not data or len(self.rest) > 65536
        try:
            return [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError):
            self.ended = True
            return []

    def wait_for_end(self, seconds: float) -> None:
        """Wait until the far end has closed."""
        deadline = time.monotonic() + seconds
        while not self.ended and time.monotonic() < deadline:
            self.socket.settimeout(0.1)
            self.messages()

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
