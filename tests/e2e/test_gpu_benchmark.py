"""The script that measures a GPU runs end to end on a processor, so that a GPU's time is not spent on its mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import SECTIONS
from launch.cluster.local.warm import rank_environment
from tests.e2e.ranks import ROOT

pytestmark = pytest.mark.e2e


def test_every_section_gives_its_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=rank_environment(os.environ, threads=1), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {*(section.name for section in SECTIONS), "law"} == found["sections"].keys()
    rows = {row["compared"]: row["nats"] for row in found["sections"]["parity"]["rows"]}
    assert rows.pop("device: bf16, fp32") < 0.01 and set(rows.values()) == {0.0}, "the device is the processor here"
    text = (tmp_path / "gpu.md").read_text()
    for name, section in found["sections"].items():
        assert section["rows"] and f"## {name} (" in text
