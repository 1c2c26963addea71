"""One SSH connection to one node: messages out, messages in, signs of life both ways."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shlex
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from launch.cluster.ssh.hosts import Host, SshOptions, ssh_command
from trainer.contract.plain_text import plain
from trainer.node.ssh_end import MARK

BEAT_SECONDS = 2.0
LAST_WORDS_SECONDS = 5.0
REMOTE = ("-u", "-m", "trainer.node.ssh_end")
_HOME = re.compile(r"~(?:[a-z_][a-z0-9_-]*)?(?:/|\Z)")


class Node:
    """A node that runs `trainer.node.ssh_end`. Every message that it sends arrives in `inbox` as (node, message)."""

    def __init__(self, host: Host, options: SshOptions, *, python: str, directory: Path) -> None:
        self.host = host
        self.directory = host.directory or str(directory)
        self.heard = time.monotonic()
        self.hello: dict[str, Any] | None = None
        self.code: int | None = None  # the agent's exit code, once it has ended
        self.closed = False  # the connection has ended
        self.process = subprocess.Popen(
            [*ssh_command(host, options), remote_command(host.python or python, self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must not cut the line before the ranks have saved
        )
        self.lock = threading.Lock()
        self.stderr = b""
        self.printed = b""  # by the login shell, before Escala began to speak
        self.said: deque[str] = deque(maxlen=50)  # the newest lines of the agent

    def listen(self, inbox: queue.Queue[tuple[Node, dict[str, Any] | None]]) -> None:
        """Start hearing the node, and showing it that this end is alive."""
        self.errors = threading.Thread(target=self._read_errors, daemon=True)
        self.errors.start()
        for target in (self._read, self._beat):
            threading.Thread(target=target, args=(inbox,), daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        """Send one order; a connection that is gone is noticed by its reader."""
        self._write(json.dumps(message).encode() + b"\n")

    def hang_up(self) -> None:
        """Close this end: the node ends its ranks and itself."""
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    def kill(self) -> None:
        """Give up on the connection; the far end notices the silence."""
        self.process.kill()
        self.process.wait()

    def why_closed(self) -> str:
        """Return what ssh said, without its own noise."""
        lines = [line for line in plain(self.stderr.decode("utf-8", "replace")).splitlines() if line.strip()]
        lines = lines or [line for line in plain(self.printed.decode("utf-8", "replace")).splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"the connection ended (code {self.process.poll()})"

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with self.lock, contextlib.suppress(BrokenPipeError, ValueError):
            os.write(self.process.stdin.fileno(), data)

    def _beat(self, _: object) -> None:
        while self.process.poll() is None and self.process.stdin and not self.process.stdin.closed:
            self._write(b"\n")
            time.sleep(BEAT_SECONDS)

    def _read(self, inbox: queue.Queue[tuple[Node, dict[str, Any] | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                self.heard = time.monotonic()
                if text := line[len(MARK) :].strip():
                    inbox.put((self, json.loads(text)))
            else:
                self.printed = (self.printed + line)[-4096:]
        self.process.wait()
        self.errors.join(LAST_WORDS_SECONDS)  # what ssh said is the reason; a shared connection may keep the pipe open
        inbox.put((self, None))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr = (self.stderr + line)[-4096:]


def remote_command(python: str, directory: Path | str, words: tuple[str, ...] = REMOTE) -> str:
    """Return the one line that the node's login shell reads; everything else travels as data."""
    return f"cd -- {shell_path(str(directory))} && exec {shell_path(python)} {shlex.join(words)}"


def shell_path(path: str) -> str:
    """Quote a path for a POSIX shell, but for `~` or `~user` at its beginning, which stands for a home over there."""
    home = _HOME.match(path)
    return home[0] + (shlex.quote(path[home.end() :]) if path[home.end() :] else "") if home else shlex.quote(path)
