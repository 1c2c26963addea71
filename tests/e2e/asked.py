"""The commands that ask the data plane, in this process: torch is imported once for all tests that ask something."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from launch.cli import main
from launch.commands import evaluate, sample
from trainer.contract.requests import answer


class Said(NamedTuple):
    """What a command ended with and printed."""

    returncode: int
    stdout: str
    stderr: str


def answered(command: list[str], input: bytes) -> subprocess.CompletedProcess[bytes]:
    """Answer the request as the process `python -m MODULE` does that a command starts for it."""
    _, _, module = command
    before, sys.stdin = sys.stdin, io.StringIO(input.decode())
    try:
        return subprocess.CompletedProcess(command, answer(importlib.import_module(module).run_request))
    finally:
        sys.stdin = before


def asked(cwd: Path, *words: str) -> Said:
    """Run `escala sample` or `escala evaluate` in a directory and in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        for module in (sample, evaluate):
            patch.setattr(module, "subprocess", SimpleNamespace(run=answered))
        try:
            main(list(words))
        except SystemExit as stop:
            code = stop.code or 0
        said = []
        for stream in (out, err):
            stream.flush()
            said.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    assert isinstance(code, int), code
    return Said(code, *said)
