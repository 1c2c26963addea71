"""One driver at a time on a host: a second one would put its ranks on the same GPUs.

The claim is a socket with a name in Linux's abstract space. It needs no file, is seen by all users of the host, and the
kernel gives it up when its process ends, in whatever way. Elsewhere nothing is claimed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import sys
import time
from typing import Any

NAME = "\0escala-ssh-driver"
OWN_SECONDS = 15.0  # how long to wait for an earlier connection of the same driver to end


class HostClaim:
    """The claim of one process. Whoever finds it taken is told by whom."""

    def __init__(self, name: str = NAME) -> None:
        self.name = name
        self.socket: socket.socket | None = None
        self.who: dict[str, Any] = {}

    def take(self, who: dict[str, Any]) -> dict[str, Any] | None:
        """Claim this host for `who`, a mapping with its "driver". Return None, or who has it."""
        if sys.platform != "linux" or self.socket is not None:
            return None
        deadline = time.monotonic() + OWN_SECONDS
        while True:
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(self.name)
                claim.listen()
            except OSError as error:
                claim.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                self.socket, self.who = claim, who
                return None
            holder = self._holder()
            other = holder is not None and holder.get("driver") != who["driver"]
            if other or time.monotonic() > deadline:
                return holder or {}
            time.sleep(0.2)

    def answer(self) -> None:
        """Tell one process that asks who has the host."""
        assert self.socket is not None
        with contextlib.suppress(OSError):  # it has gone already
            other, _ = self.socket.accept()
            with other:
                other.settimeout(1.0)
                other.sendall(json.dumps(self.who).encode())

    def _holder(self) -> dict[str, Any] | None:
        """Return what the holder says of itself, {} where it does not, or None where it has just gone."""
        try:
            with socket.socket(socket.AF_UNIX) as ask:
                ask.settimeout(5.0)
                ask.connect(self.name)
                text = b""
                while part := ask.recv(65536):
                    text += part
            found = json.loads(text)
            return found if isinstance(found, dict) else {}
        except ConnectionRefusedError:
            return None
        except (OSError, ValueError):
            return {}
