"""What ranks say of themselves: stacks, last collectives, profiles, memory, the module that was not finite."""

from __future__ import annotations

import gzip
import json
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from launch.cli import escala
from launch.cluster.local.warm import RankPool
from launch.watch.diagnosis import diagnose
from launch.watch.rank_positions import positions
from launch.watch.traces import main_stack
from tests.e2e.ranks import PATIENCE, Ranks, configuration
from trainer.contract.plain_json import rows_of

pytestmark = pytest.mark.e2e
SECRET = "planted-secret-4455"


def said(*words: object) -> str:
    return CliRunner().invoke(escala, [str(word) for word in words], catch_exceptions=False).output


def until(ranks: Ranks, there: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there.exists() and ranks.alive() and time.monotonic() < deadline:
        ranks.hear(0.05)
    assert there.exists(), ranks.log()


def test_running_ranks_say_where_they_are_and_what_they_do(
    tmp_path: Path, prepared: Path, rank_pool: RankPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_API_KEY", SECRET)
    config = configuration(prepared, 100_000, tracking={"profile_steps": ["3:5"]}, checkpoint={"every": None})
    ranks = Ranks(rank_pool, config, tmp_path / "tiny", 2)
    ranks.start()
    try:
        ranks.until_rows(6)
        assert "asked: 2 steps" in said("profile", ranks.run_dir.root, "--steps", "2")
        logs = ranks.run_dir.logs(1)
        for rank in (0, 1):
            rank_pool.signal(f"1/{rank}", signal.SIGUSR2)
        for rank in (0, 1):
            until(ranks, logs / f"position_{rank}.json")
        before = len(ranks.events("profiled"))
        deadline = time.monotonic() + PATIENCE
        while len(ranks.events("profiled")) < max(2, before) and time.monotonic() < deadline:
            ranks.hear(0.05)
        rows = ranks.rows()
        ranks.until_rows(rows + 2)  # they go on
        assert ranks.rows() >= rows + 2 and len(ranks.alive()) == 2
    finally:
        for rank in (0, 1):
            rank_pool.signal(f"1/{rank}", signal.SIGTERM)
        ranks.end(time.monotonic() + PATIENCE)

    known = positions(logs)
    assert sorted(known) == [0, 1] and all(row["collectives"] for row in known.values())
    for rank in (0, 1):
        stack = "\n".join(main_stack(logs / f"stacks_{rank}.txt"))
        assert "/trainer/" in stack, stack

    first, asked = ranks.events("profiled")
    assert first["first"] == 3 and first["step"] == 4 and asked["step"] == asked["first"] + 1
    for found in (first, asked):
        for rank in (0, 1):
            file = ranks.run_dir.root / str(found["file"]).replace("rank_0", f"rank_{rank}")
            trace = json.loads(gzip.decompress(file.read_bytes()))
            steps = [e["name"] for e in trace["traceEvents"] if e.get("name", "").startswith("step ")]
            assert steps == [f"step {found['first']}", f"step {found['step']}"]
            names = {e.get("name") for e in trace["traceEvents"]}
            assert "aten::mm" in names and any("all_reduce" in str(name) for name in names)

    row = next(row for row in rows_of(ranks.run_dir.metrics) if row["kind"] == "train" and row["step"] > 2)
    assert row["slowest_rank"] in (0, 1) and row["slowest_rank_seconds"] >= row["rank_seconds"] > 0
    (measured,) = ranks.events("memory_measured")
    parts = measured["memory_bytes"]
    plan = json.loads(ranks.run_dir.plan.read_text())["memory_bytes"]
    assert abs(parts["parameters"] - plan["parameters"]) < 0.02 * plan["parameters"]
    assert abs(parts["optimizer"] - plan["optimizer"]) < 0.1 * plan["optimizer"]
    assert parts["peak"] == sum(parts[p] for p in ("parameters", "gradients", "optimizer", "others"))
    leaks = [path for path in ranks.run_dir.root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert leaks == []


def test_a_divergence_names_the_module_and_its_replay_finds_the_same(
    tmp_path: Path, prepared: Path, rank_pool: RankPool
) -> None:
    sections = {"optim": {"lr": 1e28}, "schedule": {"kind": "constant", "warmup": "0 steps"}}
    config = configuration(prepared, 20, checkpoint={"every": "1 steps"}, **sections)
    ranks = Ranks(rank_pool, config, tmp_path / "tiny", 2)
    ranks.start()
    ranks.end(time.monotonic() + PATIENCE)
    (traced,) = ranks.events("non_finite_traced")
    assert traced["repeats"] is True and traced["module"] and traced["kind"], traced
    told = diagnose(ranks.run_dir.root)
    assert told.cause == "not a number" and told.rank == traced["rank"] and traced["says"] in told.details[-1]
    assert f"--skip-steps {traced['step'] - 1}:{traced['step']}" in told.command

    before = {path: path.read_bytes() for path in ranks.run_dir.root.rglob("*") if path.is_file()}
    again = said("why", ranks.run_dir.root, "--replay")
    assert f"step {traced['step']}, taken again from the checkpoint of step {traced['step'] - 1}: " in again, again
    assert again.count(traced["says"]) == 2, again
    first = Ranks(rank_pool, config, tmp_path / "scratch", 2)
    first.start(program=("-m", "trainer.replay", "--of", str(ranks.run_dir.root), "--step", "2"), write_config=False)
    first.end(time.monotonic() + PATIENCE)
    (row,) = first.events("replayed")
    recorded = {row["step"]: row["loss"] for row in rows_of(ranks.run_dir.metrics) if row["kind"] == "train"}
    assert (row["from_step"], row["loss"]) == (1, recorded[2]) if traced["step"] > 2 else row["from_step"] == 1
    assert all(path.read_bytes() == content for path, content in before.items()), "the run is only read"
