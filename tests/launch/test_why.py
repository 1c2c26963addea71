"""`escala why` names kind, place and remedy of what became of a run, from its record alone."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from launch.cli import escala
from launch.show.text import size
from launch.watch.causes import CAUSES, cause_of
from launch.watch.diagnosis import diagnose
from launch.watch.memory_evidence import memory
from launch.watch.rank_positions import latecomer, waited_for
from launch.watch.traces import STACK_LINES, main_stack, traceback_of
from tests.conftest import ROOT
from tests.launch.planted import AFTER_START, KINDS
from trainer.config.base import parse_section
from trainer.config.load import dump
from trainer.config.run import RunConfig
from trainer.contract.run_dir import RunDir, Status, append_json
from trainer.node.first_failure import Ending
from trainer.plan.plan import make_plan

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
    assert diagnose(run_dir.root).details == ["there is no plan of its memory", "no step was measured"]


SLOW = {"rank_seconds": 0.4, "slowest_rank": 3, "slowest_rank_seconds": 0.9, "slowest_rank_wait": 0.01}
# How runs end that no test of this machine plants: (kind, rank that began it, code, its last words).
# The other kinds are planted in real ranks: tests/launch/planted.py.
RECORDED = [
    ("out of memory", 2, -9, "out of memory: the kernel killed it"),
    ("out of memory", 2, 1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    ("disk full", 2, 1, "OSError: [Errno 28] No space left on device: 'metrics.jsonl'"),
    ("time limit", 2, -15, "the time limit of 60 min is over"),
    ("node lost", -1, 1, "node2 was lost: no sign of life for 60 s"),
    ("node lost", -1, 1, "NODE_FAIL: the node of rank 2 was lost"),
    ("preempted", 2, -15, "asked by the scheduler"),
    ("no progress", -1, 78, "3 attempts in a row began at step_5 and saved nothing newer: stopped. Save more often"),
    ("replaced", 2, 77, "error: attempt 3 of /runs/a was replaced by attempt 4 and stops writing"),
    ("a peer was lost", 2, 1, "RuntimeError: Connection closed by peer [10.0.0.1]:9"),
    ("a rank did not answer", 2, 1, "RuntimeError: Timed out waiting 30000ms for recv"),
    ("GPU fault", 2, 1, "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"),
]


@pytest.mark.parametrize(("kind", "rank", "code", "message"), RECORDED)
def test_recorded_deaths_have_their_kind_and_place(
    run_dir: RunDir, kind: str, rank: int, code: int, message: str
) -> None:
    began = Ending(rank, "node2", code, 11.0, message)
    victims = [
        Ending(0, "node1", 1, 12.0, "RuntimeError: Connection closed by peer"),
        Ending(1, "node1", -9, 13.0, "", told=True),
    ]
    fail(run_dir, began, *victims)
    told = diagnose(run_dir.root)
    assert (told.state, told.cause, told.rank, told.host) == ("failed", kind, rank, "node2"), told
    assert told.helps and told.command.startswith("escala train ")


def test_each_kind_of_cause_is_planted_and_documented() -> None:
    planted = {kind for kind, *_ in RECORDED} | set(KINDS.values()) - {"error"}
    assert planted == {cause.kind for cause in CAUSES}
    assert len(RECORDED) + len(AFTER_START) >= 20
    page = (ROOT / "docs" / "watching.md").read_text()
    rows = set(re.findall(r"^\| ([^|]+?) \| ", page.partition("## Why a run died")[2].partition("\n## ")[0], re.M))
    assert planted <= rows, planted - rows


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("timeout", "time limit"),  # Slurm's words, as its backend says them
        ("node fail", "node lost"),
        ("out of memory", "out of memory"),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried",
            "out of memory",
        ),
        ("OSError: [Errno 12] Cannot allocate memory", "out of memory"),
        ("watchdog: no step finished for 9 s, at checkpoint/save.py:9 write: ending this rank", "stalled"),
        ("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)", "a rank did not answer"),
        ("KeyError: 'x'", "error"),
    ],
)
def test_kinds_of_words(text: str, kind: str) -> None:
    assert cause_of(text).kind == kind


def test_the_last_traceback_counts(tmp_path: Path) -> None:
    log = tmp_path / "rank_0.log"
    log.write_text("Traceback (most recent call last)\nA\nTraceback (most recent call last)\nB\n")
    assert traceback_of(log) == ["Traceback (most recent call last)", "B"]


def test_the_setting_that_saves_most_is_the_plans_own_arithmetic(run_dir: RunDir) -> None:
    values = {
        "name": "tiny", "data": {}, "batch": {"tokens_per_step": 65536, "micro_batch": 16}, "steps": 10,
        "model": {"d_model": 256, "n_layers": 8, "n_heads": 4, "context_length": 1024, "vocab_size": 4096},
    }  # fmt: skip
    config = parse_section(RunConfig, values, "test")
    plan = make_plan(config, world=2, gpu=True)
    run_dir.config.write_text(dump(config))
    run_dir.plan.write_text(plan.to_json())
    parts = {"parameters": 2**20, "gradients": 0, "optimizer": 2**21, "others": 2**30, "peak": 2**30 + 3 * 2**20}
    (run_dir.logs(1) / "memory_1.json").write_text(json.dumps({"rank": 1, "memory_bytes": parts}))
    fail(run_dir, Ending(1, "node1", 1, 10.0, "torch.OutOfMemoryError: CUDA out of memory"))
    told = diagnose(run_dir.root)
    totals = {}
    for key, value in (("micro_batch", 8), ("recompute", "full"), ("recompute", "selective"), ("tensor", 2)):
        section = "batch" if key == "micro_batch" else "parallel"
        changed = {**values, section: {**values.get(section, {}), key: value}}
        totals[f"{section}.{key}={value}"] = make_plan(
            parse_section(RunConfig, changed, "test"), world=2, gpu=True
        ).memory_bytes["total"]
    best = min(totals, key=lambda setting: totals[setting])
    assert told.helps == f"--set {best}" and f" --set {best} " in f"{told.command} "
    assert f"instead of {size(plan.memory_bytes['total'])}: {best} plans {size(totals[best])}" in told.details[-1]
    assert told.details[1].startswith("measured peak 1.0 GiB on rank 1: others 1.0 GiB, optimizer 2.0 MiB")


def test_a_straggler_and_a_compiler_that_does_not_end_are_named(run_dir: RunDir) -> None:
    usual = {"kind": "train", "loss": 3.0, "step_seconds": 1.0, "goodput": 0.95}
    append_json(run_dir.metrics, {**usual, "step": 50, **SLOW})
    run_dir.write_status(Status.DONE)
    told = diagnose(run_dir.root)
    assert told.cause == "straggler" and "rank 3 needs 0.9 s until ranks meet, the median 0.4 s" in told.details[0]
    append_json(run_dir.metrics, {**usual, "step": 51, **SLOW, "slowest_rank_wait": 0.5})
    assert "0.5 s of it wait for data" in diagnose(run_dir.root).details[0]
    append_json(run_dir.metrics, *({**usual, "step": 60 + n, "compiled_graphs": n} for n in range(30)))
    told = diagnose(run_dir.root)
    assert told.cause == "recompilation" and "20 more graphs in the last 20 rows, 29 in all" in told.details[0]
    append_json(run_dir.metrics, *({**usual, "step": 90 + n, "compiled_graphs": 29} for n in range(30)))
    assert diagnose(run_dir.root).cause == "done"


def test_a_cell_goes_on_with_the_file_that_its_sweep_was_begun_with(tmp_path: Path, run_dir: RunDir) -> None:
    cell = RunDir(tmp_path / "runs" / "ladder" / "cells" / "a")
    cell.logs(1).mkdir(parents=True)
    cell.config.write_text("name: a\n")
    fail(cell, Ending(0, "h", 1, 1.0, "ValueError: planted"))
    runs = tmp_path / "runs"
    assert diagnose(cell.root).command == f"escala sweep resume ladder.yaml --failed --runs {runs}"
    begun = {"config": "/home/me/my sweep.yaml", "assignments": ["tokens=2M"]}
    (runs / "ladder" / "sweep.json").write_text(json.dumps({"begun_by": begun}))
    words = "escala sweep resume '/home/me/my sweep.yaml' --set tokens=2M --failed"
    assert diagnose(cell.root).command == f"{words} --runs {runs}"


COLLECTIVE = {"group": "0", "number": 7, "name": "gloo:all_reduce", "sizes": [[4]], "finished": False}


@pytest.mark.parametrize(
    ("others", "late"),
    [
        ({3: {**COLLECTIVE, "number": 6, "finished": True}}, 3),
        ({3: None}, 3),  # it says nothing, while all others wait in the same one
        ({3: COLLECTIVE}, None),  # all wait: nobody is late
        ({2: {**COLLECTIVE, "number": 5}, 3: {**COLLECTIVE, "number": 6}}, 2),  # for which 3 waits too
        ({key: {**COLLECTIVE, "number": 5, "finished": True} for key in (2, 3)}, None),  # two are late
    ],
)
def test_the_rank_that_began_fewer_collectives_is_the_one_that_was_waited_for(others: dict, late: int | None) -> None:
    rows = dict.fromkeys(range(4), COLLECTIVE) | others
    known = {rank: {"rank": rank, "collectives": [row]} for rank, row in rows.items() if row is not None}
    assert latecomer(known, set(range(4))) == late


@given(
    st.dictionaries(
        st.text(max_size=8), st.one_of(st.none(), st.integers(), st.text(max_size=4), st.lists(st.none())), max_size=4
    )
)
def test_damaged_positions_are_no_reason_to_fail(row: dict) -> None:
    with tempfile.TemporaryDirectory() as directory:
        run_dir = RunDir(Path(directory))
        run_dir.logs(1).mkdir(parents=True)
        (run_dir.logs(1) / "rank_0.log").write_text("x")
        (run_dir.logs(1) / "position_0.json").write_text(json.dumps({"rank": 0, **row}))
        (run_dir.logs(1) / "memory_0.json").write_text(json.dumps({"rank": 0, "memory_bytes": row}))
        assert waited_for(run_dir).rank is None and memory(run_dir, 0).helps


@pytest.mark.parametrize("deep", [0, STACK_LINES - 1, STACK_LINES, 40])
def test_a_stack_shows_the_innermost_calls_and_the_first_of_our_own(tmp_path: Path, deep: int) -> None:
    library = [f'  File "/lib/torch/{index}.py", line 1 in call' for index in range(deep)]
    own = [f'  File "/lib/trainer/{index}.py", line 1 in step' for index in range(20)]
    dump = ["Thread 0x1 (most recent call first):", '  File "/lib/threading.py", line 1 in wait',
            "Current thread 0x2 (most recent call first):", *library, *own]  # fmt: skip
    (tmp_path / "stacks_0.txt").write_text("\n".join(dump))
    found = main_stack(tmp_path / "stacks_0.txt")
    assert found[:STACK_LINES] == [*library, *own][:STACK_LINES]
    assert own[0] in found and len(found) <= STACK_LINES + 1
