"""What a connection to one host says of its own end."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from launch.cluster.ssh.connection import Node
from launch.cluster.ssh.hosts import Host, SshOptions

LATE = """#!/bin/sh
# The reason arrives after the program has ended and its output is closed.
(exec >&-; sleep 0.5; echo 'ada@h1: Permission denied (publickey).' >&2) &
exit 255
"""


def test_the_reason_is_known_when_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(LATE)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    inbox: queue.Queue[tuple[Node, dict[str, Any] | None]] = queue.Queue()
    node = Node(Host("h1"), SshOptions(), python="python", directory=tmp_path)
    node.listen(inbox)
    assert inbox.get(timeout=30) == (node, None)
    assert node.why_closed() == "ada@h1: Permission denied (publickey)."
