"""What `benchmarks.context` measured becomes a section of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.context import crossings
from launch.commands.report import report
from launch.scaling.report.context_lengths import context_section
from tests.scaling.test_families import STEEP, write
from trainer.contract.errors import UserError

SPEEDS = {"attention": [4000.0, 2000.0, 1000.0], "lstm": [1500.0, 1500.0, 1500.0], "mamba2": [900.0, 900.0, 900.0]}


def measured(path: Path) -> Path:
    """Write a file of the benchmark, with its own crossings, and return its path."""
    mixers = {
        name: [{"context": 64 * 4**i, "tokens_per_second": speed, "bytes": 1e6} for i, speed in enumerate(speeds)]
        for name, speeds in SPEEDS.items()
    }
    about = {"size": "300k", "tokens_per_step": 8192, "vocabulary": 1024}
    path.write_text(json.dumps({**about, "mixers": mixers, "better_from": crossings(mixers)}))
    return path


def test_crossings_are_told_with_the_slowdown(tmp_path: Path) -> None:
    (grid,) = context_section(measured(tmp_path / "context.json")).grids
    assert grid.rows == [
        ["attention", "4K", "1K", "4.00x", "-", "-"],
        ["lstm", "1.5K", "1.5K", "1.00x", "455", "not up to 1,024"],
        ["mamba2", "900", "900", "1.00x", "not up to 1,024", "not up to 1,024"],
    ]


def test_a_report_draws_them(tmp_path: Path) -> None:
    table, context = write(tmp_path / "t.csv", STEEP), measured(tmp_path / "context.json")
    command = [str(table), "--context", str(context), "--out", str(tmp_path / "out"), "--json"]
    answer = json.loads(CliRunner().invoke(report, command, catch_exceptions=False).stdout)
    assert {Path(figure).stem for figure in answer["figures"]} >= {"speed_against_context", "memory_against_context"}
    assert "faster than attention from" in Path(answer["markdown"]).read_text()


def test_another_file_is_refused_with_what_writes_the_right_one(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"size": "300k"}')
    with pytest.raises(UserError, match=r"tokens_per_step: field required\. Write it with python -m benchmarks"):
        context_section(other)
    with pytest.raises(UserError, match="No such file"):
        context_section(tmp_path / "missing.json")
