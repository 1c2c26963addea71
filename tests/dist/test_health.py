"""A run that goes back for spikes is the run that never read that data, at every layout and over a restart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.e2e.ranks import configuration
from trainer.config.load import dump
from trainer.config.run import RunConfig
from trainer.contract.plain_json import read_object, rows_of
from trainer.contract.run_dir import RunDir

STEPS = 40
BAD = range(30, 33)  # steps of the data order whose targets are nonsense
SKIP = "28:33"  # 2 steps before the first spike, until all ranks have agreed
# Seconds. Here no rank is ever lost: one that waits for another longer than the 30 s of `configuration` found a crowded
# machine, where the other may save or evaluate for so long.
PATIENCE = 300.0
FINDS = {"window": 20, "sigma": 5.0}
GUARD = {**FINDS, "spike": "rollback", "patience": 2, "margin": 2}


class KilledError(Exception):
    """The run ends here, as a machine does that is lost."""


def train(root: str, killed_at: int | None = None, late: bool = False, broken: range = range(0)) -> str:
    """Train the run of a directory on this world with bad data in it; return how it ended.

    `late` reads outcomes a step late, as on a GPU. The weights of the `broken` steps of the data order are not finite.
    """
    import torch

    from trainer.config.load import load_written
    from trainer.data.order.skipping import data_step
    from trainer.guard.fence import Fence
    from trainer.loop.run import DivergedError
    from trainer.loop.steps import train
    from trainer.parallel.start import start
    from trainer.plan.plan import make_plan
    from trainer.plan.resolve import with_data
    from trainer.session import agreed_manifest, open_session

    run_dir, device = RunDir(Path(root)), torch.device("cpu")
    config = load_written(run_dir.config)
    mesh = start(config.parallel, device)
    manifest = agreed_manifest(config.data, run_dir, device)
    config = with_data(config, manifest)
    plan = make_plan(config, world=mesh.world, gpu=False, train_tokens=manifest.tokens("train"))
    session = open_session(config, plan, manifest, mesh, device, run_dir, Fence(run_dir))
    run, read = session.run, session.run.batches.step
    run.reads_late = late

    def poisoned(step: int) -> Any:
        if run.rollbacks and step == killed_at:
            raise KilledError
        at = data_step(step, run.batches.skipped)
        if broken:
            weights = [torch.full(b.targets.shape, torch.nan if at in broken else 1.0) for b in read(step)]
            return [dataclasses.replace(b, weights=w) for b, w in zip(read(step), weights, strict=True)]
        bad = at in BAD
        return [dataclasses.replace(b, targets=(b.targets * 7 + 3) % 509) if bad else b for b in read(step)]

    run.batches.step = poisoned  # type: ignore[method-assign]
    try:
        return "done" if train(run) else "stopped"
    except (KilledError, DivergedError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        session.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from launch.run.data_preparation import resolve

    root = tmp_path_factory.mktemp("prepared")
    resolve(configuration(root, 1))
    return root


def run_of(place: Path, prepared: Path, name: str, **sections: Any) -> RunDir:
    sections["parallel"] = {"timeout_seconds": PATIENCE, **sections.get("parallel", {})}
    config: RunConfig = configuration(prepared, STEPS, optim={"lr": 3e-3}, **sections)
    run_dir = RunDir(place / name)
    run_dir.root.mkdir()
    run_dir.config.write_text(dump(config))
    return run_dir


def losses(run_dir: RunDir) -> list[float]:
    rows = [row for row in rows_of(run_dir.metrics) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), "each step once"
    return [row["loss"] for row in rows]


def events(run_dir: RunDir, name: str) -> list[dict[str, Any]]:
    return [row for row in rows_of(run_dir.events) if row["event"] == name]


def test_a_rollback_is_the_run_without_that_data(ranks: RankPool, tmp_path: Path, prepared: Path) -> None:
    plain = run_of(tmp_path, prepared, "plain", skip_steps=[SKIP], guard={"spike": "off"})
    assert ranks.run(1, train, str(plain.root)) == ["done"]
    one = run_of(tmp_path, prepared, "one", guard=GUARD)
    assert ranks.run(1, train, str(one.root)) == ["done"]
    assert losses(one) == losses(plain)
    (back,) = events(one, "rolled_back")
    assert (back["step"], back["at"], back["skipped"], back["rollbacks"]) == (25, 33, SKIP, 1)
    assert [(row["step"], row["action"]) for row in events(one, "spike")][:2] == [(31, "rollback"), (32, "rollback")]
    assert read_object(one.root / "rollbacks.json")["rollbacks"] == [{"at": 33, "begin": 28, "end": 33}]
    rows = list(rows_of(one.metrics))
    assert {row["step"] for row in rows if row.get("rollbacks") == 1} == set(range(26, STEPS + 1))
    assert [p.name for p in (one.checkpoints / "set_aside").iterdir()] == ["step_000000030-abandoned"]
    newest = [row for row in rows if row["kind"] == "train"][-1]
    assert newest["lost_seconds"] > 0 and newest["train_seconds"] > 0

    two = run_of(tmp_path, prepared, "two", guard=GUARD, parallel={"zero_stage": 2})
    assert ranks.run(2, train, str(two.root), 30)[0].startswith("KilledError"), "before a checkpoint was written"
    assert ranks.run(2, train, str(two.root)) == ["done"] * 2
    assert losses(two) == pytest.approx(losses(plain), abs=2e-3)
    assert [{**row, "time": ""} for row in events(two, "rolled_back")] == [{**back, "time": ""}], "once, alike"

    tracking = {"norms_every": "10 steps", "activations": True, "profile_steps": ["3:4"]}
    three = run_of(tmp_path, prepared, "three", guard=GUARD, parallel={"engine": "fsdp"}, tracking=tracking)
    assert ranks.run(2, train, str(three.root)) == ["done"] * 2
    assert losses(three) == pytest.approx(losses(plain), abs=2e-3)
    assert [{**row, "time": ""} for row in events(three, "rolled_back")] == [{**back, "time": ""}]
    assert events(three, "memory_measured")[0]["memory_bytes"]["parameters"] > 0
    assert [row["step"] for row in rows_of(three.metrics) if row.get("activation_rms")] == [10, 20, 30, 40]
    assert len(events(three, "profiled")) == 1


@pytest.mark.parametrize(
    ("guard", "ended"),
    [
        ({**FINDS, "spike": "skip", "max_skips": 2}, "DivergedError: loss"),
        ({**FINDS, "spike": "stop", "patience": 2}, "DivergedError: 2 spikes in a row"),
        ({**GUARD, "max_rollbacks": 0}, "DivergedError: spikes at step 33 after 0 rollbacks"),
    ],
)
def test_a_run_ends_when_its_patience_does(
    ranks: RankPool, tmp_path: Path, prepared: Path, guard: dict[str, Any], ended: str
) -> None:
    run_dir = run_of(tmp_path, prepared, "run", guard=guard)
    (said, other) = ranks.run(2, train, str(run_dir.root))
    assert said.startswith(ended) and said == other
    assert len(events(run_dir, "spike")) >= 2


def test_a_run_without_a_checkpoint_before_the_spikes_goes_on(ranks: RankPool, tmp_path: Path, prepared: Path) -> None:
    run_dir = run_of(tmp_path, prepared, "run", guard=GUARD, checkpoint={"every": None})
    assert ranks.run(1, train, str(run_dir.root)) == ["done"]
    (row,) = events(run_dir, "rollback_impossible")
    assert "no checkpoint of at most 28 steps" in row["reason"] and not (run_dir.root / "rollbacks.json").exists()


def history(run_dir: RunDir) -> list[dict[str, Any]]:
    """Return the rows and events of a run, in order, without times and what is measured in them."""
    timed = {"time", "seconds", "mfu", "memory_peak", "energy", "cost", "rank", "ranks", "tokens_per_second", "goodput"}

    def lasting(row: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in row.items() if not any(part in k for part in (*timed, "hours", "memory", "from"))}

    rows = [lasting(row) for row in rows_of(run_dir.metrics)]
    kept = ("spike", "step_skipped", "non_finite_traced", "saving", "pass_ended")
    return rows + [lasting(row) for row in rows_of(run_dir.events) if row["event"] in kept]


@pytest.mark.parametrize(
    ("guard", "broken", "parallel", "ended"),
    [
        ({"spike": "continue"}, range(0), {}, "done"),
        ({}, range(12, 13), {"engine": "fsdp"}, "DivergedError: loss nan and gradient norm nan after step 13"),
        ({"non_finite": "skip", "max_skips": 2}, range(7, 9), {}, "done"),
        ({"non_finite": "skip", "max_skips": 2}, range(7, 12), {"zero_stage": 2}, "DivergedError: loss nan"),
    ],
)
def test_reading_a_step_late_changes_nothing(
    ranks: RankPool, tmp_path: Path, prepared: Path, guard: Any, broken: range, parallel: Any, ended: str
) -> None:
    """Rows keep their steps and every digit, a run ends at the step that ends it, and no later step is applied."""
    tracking = {"norms_every": "10 steps"}
    sections = {"guard": {"window": 20, "sigma": 5.0, **guard}, "parallel": parallel, "tracking": tracking}
    runs = [run_of(tmp_path, prepared, name, **sections) for name in ("now", "late")]
    for run_dir, late in zip(runs, (False, True), strict=True):
        said = ranks.run(2, train, str(run_dir.root), None, late, broken, timeout=PATIENCE)
        assert said[0].startswith(ended) and said[0] == said[1]
    assert history(runs[0]) == history(runs[1])
    assert len(history(runs[0])) > 10
