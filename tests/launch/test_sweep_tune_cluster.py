"""`escala sweep tune --cluster` on a stubbed Slurm: each decision is an array, and the next waits for its rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from launch.sweep.execute import tune
from launch.sweep.execute.tune import TuneWish, tune_sweep
from launch.sweep.ledger import ledger
from tests.launch.test_sweep_cells import RUN
from tests.launch.test_sweep_run import RESULT
from tests.launch.test_sweep_submit import Stub, stub
from trainer.config.load import load_written
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status
from trainer.plan.plan import make_plan

__all__ = ["stub"]  # the fixture
RUNGS = [{"model.size": "12k", "tokens": 20480}, {"model.size": "25k", "tokens": 40960}]


def wish_of(stub: Stub, **changes: Any) -> TuneWish:
    run = {key: value for key, value in RUN.items() if key != "tokens"}
    run["model"] = {**run["model"], "vocab_size": 512}
    (stub.root / "s.yaml").write_text(yaml.safe_dump({"name": "s", "ranks": 2, "run": run, "rungs": RUNGS}))
    values = {"budget": 9.0, "cluster": str(stub.root / "c.yaml"), **changes}
    return TuneWish(stub.root / "s.yaml", (), stub.root / "runs", **values)


def end_what_runs(stub: Stub, seen: list[list[str]]) -> None:
    """End the jobs that were sent, with losses of a surface whose best factor is 1.4."""
    going = [d for d in (stub.root / "runs" / "s" / "cells").iterdir() if RunDir(d).read_status() is not Status.DONE]
    seen.append(sorted(d.name for d in going))
    for root in going:
        run_dir = RunDir(root)
        config = load_written(run_dir.config)
        loss = 3 * math.exp(0.01 * math.log2(config.optim.lr_factor / 1.4) ** 2)
        result = {**RESULT, "evaluations": [{**RESULT["evaluations"][0], "loss": loss}]}
        run_dir.result.write_text(json.dumps(result))
        run_dir.plan.write_text(make_plan(config, world=2).to_json())
        run_dir.write_status(Status.DONE)


def test_each_decision_is_an_array_and_the_next_waits_for_it(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(tune, "time", SimpleNamespace(sleep=lambda seconds: end_what_runs(stub, seen)))
    tuned = tune_sweep(wish_of(stub), Console(quiet=True))
    assert tuned is not None and [size.problem for size in tuned.recipe.lr.sizes] == ["", ""]
    scripts = stub.submitted()
    assert len(scripts) == len(seen) and "#SBATCH --array=0-2" in scripts[0], "the bracket goes as one"
    for script, names in zip(scripts, seen, strict=True):
        assert all(f"/{name}" in script for name in names)
    rows = list(ledger.read(stub.root / "runs" / "s" / "ledger.jsonl"))
    assert len({row["cell"] for row in rows}) == tuned.runs == sum(map(len, seen))
    assert {(row["purpose"], row["knob"]) for row in rows} == {("tuning", "lr")}


def test_interrupted_in_the_queue_it_waits_for_the_same_jobs(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "time", SimpleNamespace(sleep=interrupt))
    with pytest.raises(KeyboardInterrupt):
        tune_sweep(wish_of(stub), Console(quiet=True))
    stub.says(t100_0="RUNNING", t100_1="PENDING", t100_2="PENDING")
    with pytest.raises(KeyboardInterrupt):
        tune_sweep(wish_of(stub), Console(quiet=True))
    assert len(stub.submitted()) == 1, "what is queued is not sent again"
    seen: list[list[str]] = []

    def end(seconds: float) -> None:
        end_what_runs(stub, seen)
        stub.says()

    monkeypatch.setattr(tune, "time", SimpleNamespace(sleep=end))
    assert tune_sweep(wish_of(stub), Console(quiet=True)) is not None
    assert len(seen[0]) == 3 and len(stub.submitted()) == len(seen)


def test_a_cluster_of_another_shape_is_refused(stub: Stub, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("backend: slurm\nnodes: 2\nranks_per_node: 4\n")
    with pytest.raises(UserError, match="a cell of sweep 's' has 2 ranks"):
        tune_sweep(wish_of(stub, cluster=str(other)), Console(quiet=True))
