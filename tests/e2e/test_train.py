"""`escala train` beside the commands that look at it: jobs, logs, cancel."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.ranks import PATIENCE, configuration
from trainer.config.load import dump
from trainer.contract.exit_codes import EXIT_PREEMPTED

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
ESCALA = [sys.executable, "-m", "launch"]


def escala(*words: str) -> str:
    done = subprocess.run([*ESCALA, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(metrics: Path) -> int:
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def test_a_run_of_this_machine_is_listed_read_and_cancelled(tmp_path: Path, prepared: Path) -> None:
    config, runs = tmp_path / "run.yaml", str(tmp_path / "runs")
    config.write_text(dump(configuration(prepared, 100_000)))
    name = configuration(prepared, 1).name
    command = [*ESCALA, "train", str(config), "--runs", runs]
    train = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        metrics = tmp_path / "runs" / name / "metrics.jsonl"
        deadline = time.monotonic() + PATIENCE
        while not rows(metrics) and train.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        (row,) = json.loads(escala("jobs", "--runs", runs, "--running", "--json"))
        assert (row["name"], row["state"], row["cluster"]) == (name, "running", "local")
        assert "loss" in escala("logs", name, "--runs", runs)
        escala("cancel", name, "--runs", runs)
        said, _ = train.communicate(timeout=PATIENCE)
    finally:
        train.kill()
    assert train.returncode == EXIT_PREEMPTED and "goes on from its newest checkpoint" in said, said
    (row,) = json.loads(escala("jobs", "--runs", runs, "--json"))
    assert row["state"] == "preempted", "it saved"
    assert (tmp_path / "runs" / name / "latest").exists()
