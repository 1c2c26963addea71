"""The newest step is read from the end of metrics.jsonl, and is the same as that of a reader of the whole file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.cluster.registry import Submitted
from launch.commands.jobs import jobs
from launch.run import newest_step
from launch.run.newest_step import rows_backwards, training_rows
from launch.run.run_state import divergence_of, failure_of, loss_of_progress
from trainer.contract.plain_json import read_lines
from trainer.contract.run_dir import RunDir

LINES = st.lists(
    st.one_of(
        st.builds(lambda i, pad: json.dumps({"step": i, "pad": "x" * pad}).encode(), st.integers(), st.integers(0, 60)),
        st.sampled_from([b"", b"{", b"[1]", b"null", b"\x00" * 30, b"\xff"]),
    ),
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    lines=LINES, end=st.sampled_from([b"", b"\n", b'\n{"step": 7, "lo', b"\n" + b"\x00" * 50]), block=st.integers(1, 40)
)
def test_rows_from_the_end_are_the_rows_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[bytes], end: bytes, block: int
) -> None:
    monkeypatch.setattr(newest_step, "BLOCK", block)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(lines) + end)
    assert list(rows_backwards(path)) == read_lines(path).rows[::-1]


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    with run_dir.metrics.open("wb") as file:
        file.truncate(2**36)  # a hole of 64 GiB: whoever reads it all does not come back
        file.seek(0, 2)
        rows = [
            *({"kind": "train", "step": step, "loss": 2.0} for step in range(1, 100)),
            {"kind": "train", "step": 100, "loss": None, "non_finite": {"loss": "nan"}},
            {"kind": "evaluation", "step": 101, "loss": 3.0},
        ]
        file.write(b"\n" + b"".join(json.dumps(row).encode() + b"\n" for row in rows) + b'{"kind": "train", "step": 1')
    newest = newest_step.newest_step(run_dir)
    assert newest is not None and (newest["step"], newest["loss"]) == (100, None)
    assert next(row["step"] for row in training_rows(run_dir) if row["loss"] is not None) == 99
    Submitted("h:1:1", "x", "local", "local", tmp_path, 1, "now").write()
    listed = CliRunner().invoke(jobs, ["--runs", str(tmp_path), "--json"], catch_exceptions=False)
    assert json.loads(listed.stdout)[0]["step"] == 100, "the step of every command is that of training"


def test_what_cannot_be_read_hides_no_run(tmp_path: Path) -> None:
    assert newest_step.newest_step(RunDir(tmp_path / "none")) is None
    (tmp_path / "metrics.jsonl").mkdir()
    assert newest_step.newest_step(RunDir(tmp_path)) is None


def test_why_a_run_ended_is_read_from_the_end_of_its_events(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    with run_dir.events.open("wb") as file:
        file.truncate(2**36)
        file.seek(0, 2)
        file.write(b"\n")
    for event, more in (
        ("failed", {"error": "old"}), ("resumed", {"step": 7, "lost_steps": 3}), ("failed", {"error": "new"}),
        ("diverged", {"error": "not a number"}), ("diverged", {"no": "reason"}), ("saved", {}),
    ):  # fmt: skip
        run_dir.record_event(event, **more)
    assert (failure_of(run_dir), divergence_of(run_dir)) == ("new", "not a number")
    assert loss_of_progress(run_dir) == "went on from step 7: 3 steps are trained again"
