"""`escala why` names kind, place and remedy of what became of a run, from its record alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from launch.cli import escala
from launch.watch.causes import cause_of
from launch.watch.diagnosis import diagnose, traceback_of
from trainer.contract.run_dir import RunDir, Status, append_json
from trainer.node.first_failure import Ending

MEMORY = {"parameters": 2**30, "activations": 6 * 2**30, "optimizer": 2**31, "total": 9 * 2**30}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "tiny")
    found.logs(1).mkdir(parents=True)
    found.config.write_text("name: tiny\n")
    found.plan.write_text(json.dumps({"steps": 100, "memory_bytes": MEMORY}))
    found.run.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    row = {
        "step_seconds": 1.0,
        "step_seconds_p95": 1.1,
        "data_seconds": 0.01,
        "goodput": 0.95,
        "memory_peak": 7 * 2**30,
    }
    append_json(found.metrics, {"kind": "train", "step": 40, "loss": 3.0, **row})
    return found


def fail(run_dir: RunDir, *endings: Ending, log: str = "") -> None:
    for ending in endings:
        (run_dir.logs(1) / f"failure_{ending.host}_{ending.rank}.json").write_text(json.dumps(vars(ending)))
        (run_dir.logs(1) / f"rank_{ending.rank}.log").write_text(log or f"log of rank {ending.rank}\n")
    run_dir.record_event("failed", error="what the first rank said")
    run_dir.write_status(Status.FAILED)


def said(run_dir: RunDir) -> str:
    words = ["why", "tiny", "--runs", str(run_dir.root.parent)]
    return CliRunner().invoke(escala, words, catch_exceptions=False).output


def test_the_rank_that_began_it_is_named_and_not_its_victim(run_dir: RunDir) -> None:
    log = 'step 3\nTraceback (most recent call last):\n  File "x.py", line 1\nValueError: planted\n'
    victim = Ending(0, "node1", 1, 10.0, "RuntimeError: Connection closed by peer")
    fail(run_dir, victim, Ending(5, "node2", 1, 11.0, "ValueError: planted"), log=log)
    text = said(run_dir)
    assert "rank 5 on node2 ended with exit code 1: ValueError: planted" in text
    assert "| Traceback" in text and "| ValueError: planted" in text and "step 3" not in text
    assert text.rstrip().endswith(f"escala train {run_dir.config} --runs {run_dir.root.parent}")


def test_out_of_memory_has_the_plan_beside_the_peak_and_the_setting_that_helps_most(run_dir: RunDir) -> None:
    fail(run_dir, Ending(1, "node1", 1, 10.0, "torch.OutOfMemoryError: CUDA out of memory"))
    text = said(run_dir)
    assert "failed, out of memory" in text and "rank 1 on node1" in text
    assert "planned for a rank 9.0 GiB: activations 6.0 GiB, optimizer 2.0 GiB, parameters 1.0 GiB" in text
    assert "measured peak 7.0 GiB" in text and "helps: parallel.recompute: full" in text


def test_a_divergence_names_the_step(run_dir: RunDir) -> None:
    run_dir.record_event("step_skipped", step=41, loss=None, grad_norm=None)
    run_dir.record_event("diverged", error="loss nan and gradient norm nan after step 41")
    run_dir.write_status(Status.DIVERGED)
    told = diagnose(run_dir.root)
    assert told.cause == "not a number" and "after step 41" in told.says and "step 41" in told.details[1]
    assert "optim.lr" in told.helps


@pytest.mark.parametrize(
    ("row", "cause", "word"),
    [
        ({}, "done", ""),
        ({"data_seconds": 0.5}, "data wait", "50% of its time"),
        ({"step_seconds_p95": 4.0}, "uneven steps", "4.0 times the median"),
        ({"goodput": 0.5, "save_seconds": 40.0}, "low goodput", "stood still for a checkpoint (40 s)"),
    ],
)
def test_a_slow_run_says_where_its_time_goes(run_dir: RunDir, row: dict, cause: str, word: str) -> None:
    usual = {"step_seconds": 1.0, "step_seconds_p95": 1.1, "data_seconds": 0.01, "goodput": 0.95}
    append_json(run_dir.metrics, {"kind": "train", "step": 50, "loss": 3.0, **usual, **row})
    run_dir.write_status(Status.DONE)
    told = diagnose(run_dir.root)
    assert told.cause == cause and word in "".join(told.details)


def test_a_run_without_a_row_for_long_is_stalled(run_dir: RunDir) -> None:
    run_dir.write_status(Status.RUNNING)
    assert diagnose(run_dir.root).cause == "running"
    long_ago = run_dir.metrics.stat().st_mtime - 1000
    os.utime(run_dir.metrics, (long_ago, long_ago))
    told = diagnose(run_dir.root)
    assert told.cause == "stalled" and "no row for 16m" in told.details[0]


def test_a_run_that_was_asked_to_stop_goes_on_with_a_command(run_dir: RunDir) -> None:
    run_dir.write_status(Status.PREEMPTED)
    told = json.loads(CliRunner().invoke(escala, ["why", str(run_dir.root), "--json"]).output)
    assert (told["state"], told["cause"], told["command"].split()[:2]) == (
        "preempted",
        "preempted",
        ["escala", "train"],
    )


def test_nothing_is_known_of_a_run_that_left_nothing(run_dir: RunDir) -> None:
    (run_dir.root / "metrics.jsonl").unlink()
    assert diagnose(run_dir.root).state == "waiting"
    run_dir.plan.unlink()
    fail(run_dir, Ending(0, "h", -9, 1.0, "out of memory: the kernel killed it"))
    assert diagnose(run_dir.root).details == ["there is no plan of its memory"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OSError: [Errno 28] No space left on device", "disk full"),
        ("the time limit of 1 min is over: rank 0 on x ended with signal SIGTERM", "time limit"),
        ("NODE_FAIL: the node of rank 0 was lost", "node lost"),
        ("signal SIGTERM: asked by the scheduler", "preempted"),
        ("Timed out waiting 30000ms for recv", "a rank did not answer"),
        ("KeyError: 'x'", "error"),
    ],
)
def test_kinds_of_failures(text: str, kind: str) -> None:
    assert cause_of(text).kind == kind


def test_the_last_traceback_counts() -> None:
    text = "Traceback (most recent call last)\nA\nTraceback (most recent call last)\nB\n"
    assert traceback_of(text)[-1] == "B" and len(traceback_of(text)) == 2
