"""The memory that the benchmark of preparation counts."""

from __future__ import annotations

import os
import subprocess

import psutil
import pytest

from benchmarks.data import resident


def test_a_process_that_ended_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    listed = [psutil.Process(child.pid) for child in children]
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: listed)
    children[0].kill()
    children[0].wait()
    try:
        assert len([size for size in resident(os.getpid()) if size > 0]) == 2, "this process and the other child"
    finally:
        children[1].kill()
        children[1].wait()
    assert resident(children[0].pid) == [0]
