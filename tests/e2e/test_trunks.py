"""Branched cooldowns: cheaper than whole runs, and the same runs bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LENGTHS = [10, 20, 40]  # steps; with a cooldown of 20 %, branches part after 8 and 16
SWEEP = {
    "ranks": 2,
    "slots": 2,
    "run": {
        "base": "cell",
        "data": {"base": "quickstart", "name": "small", "sources": [{"path": "embedded", "max_bytes": 2_000_000}]},
        "tokens": None,
        "batch": {"tokens_per_step": 1024},
        "schedule": {"kind": "wsd", "warmup": "3 steps", "decay": "20%"},
        "evaluation": {"tokens": 16_000},
        "tracking": {"log_every": "1 steps", "wandb": "disabled"},
    },
    "vary": {"model.size": ["12k"], "steps": LENGTHS},
}


def run(place: Path, name: str, *arguments: str, **changes: object) -> str:
    (place / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **SWEEP, **changes}))
    done = subprocess.run(
        [sys.executable, "-m", "launch", "sweep", "run", f"{name}.yaml", *arguments],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ESCALA_CONFIGS": str(ROOT / "configs")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def rows_of(place: Path, name: str) -> dict[str, dict]:
    lines = (place / "runs" / name / "ledger.jsonl").read_text().splitlines()
    return {row["cell"]: row for row in map(json.loads, lines) if row["eval_set"] == "held_out"}


def curve_of(place: Path, name: str, cell: str) -> dict[int, tuple[float, float, float]]:
    lines = (place / "runs" / name / "cells" / cell / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    return {row["step"]: (row["loss"], row["grad_norm"], row["lr"]) for row in rows}


def test_a_branch_is_the_whole_run_bit_for_bit(tmp_path: Path) -> None:
    said = run(tmp_path, "branched", trunks=True)
    run(tmp_path, "whole")
    branched, whole = rows_of(tmp_path, "branched"), rows_of(tmp_path, "whole")
    assert "2 cells branch off 1 trunks" in said
    assert branched.keys() == whole.keys(), "a branch has the name of the whole run"
    (trunk,) = [cell for cell, row in branched.items() if row["step"] == max(LENGTHS)]
    for cell, row in branched.items():
        first = 1 if cell == trunk else row["step"] * 4 // 5 + 1
        curve, full = curve_of(tmp_path, "branched", cell), curve_of(tmp_path, "whole", cell)
        assert min(curve) == first, "a branch trains its cooldown alone"
        assert curve == {step: values for step, values in full.items() if step >= first}
        assert row["trunk"] == (None if cell == trunk else trunk)
        for name in ("loss", "loss_by_position", "tokens", "flops_exact", "unique_tokens", "train_loss"):
            assert row[name] == whole[cell][name]
    assert "nothing to train" in run(tmp_path, "branched", trunks=True)
