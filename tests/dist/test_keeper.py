"""Restoring by policy, passing over damaged checkpoints, retention, failed writes, and what ranks agree on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import global_batch, micro_batches, tiny
from trainer.config.run import RunConfig
from trainer.errors import UserError
from trainer.run_dir import RunDir


def run_steps(
    config: RunConfig,
    root: str,
    stop: int,
    *,
    tokenizer: str = "abc",
    save_every: int = 1,
    stop_on_rank: int | None = None,
    break_step: int | None = None,
) -> dict[str, Any]:
    """Restore by the configuration's policy, train to `stop`, save; return what happened on this rank."""
    import torch

    from trainer.checkpoint.keeper import Keeper
    from trainer.guard.fence import Fence
    from trainer.models.build import build_model
    from trainer.engine.build import build_engine
    from trainer.parallel.start import start

    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    engine = build_engine(config, build_model(config.model, 0), mesh, lr=1.0, accumulation=1, device=device)
    events: list[dict[str, Any]] = []
    run_dir = RunDir(Path(root))
    keeper = Keeper(
        engine, config.checkpoint, run_dir, fence=Fence(run_dir), keep_every_steps=4, identity={"tokenizer": tokenizer},
        event=lambda name, **values: events.append({"event": name, **values}),
    )  # fmt: skip
    try:
        step = first = keeper.restore()
    except UserError as error:
        return {"error": str(error)}
    losses = []
    while step < stop:
        if step == 2 and mesh.rank == stop_on_rank:
            engine.agreement.ask("stop")
        losses.append(engine.train_step(micro_batches(global_batch(step), mesh.dp_rank, mesh.dp_size, 1), 3e-3).loss)
        step += 1
        if break_step == step and mesh.rank == 1:
            blocker = Path(root) / "checkpoints" / f".step_{step:09d}.attempt_0" / "rank_00001.safetensors"
            blocker.mkdir(parents=True)  # this rank's file cannot be written
        if step % save_every == 0:
            keeper.save(step)
        if engine.agreement.agreed("stop"):
            break
    keeper.close()
    engine.close()
    return {"first": first, "step": step, "losses": losses, "events": events}


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").iterdir())


def test_retention_keeps_the_newest_and_every_fourth(ranks: RankPool, tmp_path: Path) -> None:
    result = ranks.run(2, run_steps, tiny(checkpoint={"keep_last": 2}), str(tmp_path), 7)[0]
    assert names(tmp_path) == ["step_000000004", "step_000000006", "step_000000007"]
    assert (tmp_path / "latest").read_text() == "step_000000007\n"
    assert [event["step"] for event in result["events"] if event["event"] == "saved"] == list(range(1, 8))


def flip_a_bit(checkpoint: Path) -> None:
    path = checkpoint / "rank_00001.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def tear(checkpoint: Path) -> None:
    os.truncate(checkpoint / "rank_00000.safetensors", 1000)


def lose_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [flip_a_bit, tear, lose_the_manifest])
def test_damaged_newest_is_passed_over_and_the_run_ends_the_same(ranks: RankPool, tmp_path: Path, damage: Any) -> None:
    config = tiny(parallel={"tensor": 2})
    whole = ranks.run(2, run_steps, config, str(tmp_path / "whole"), 6)[0]
    ranks.run(2, run_steps, config, str(tmp_path / "run"), 4)
    damage(tmp_path / "run" / "checkpoints" / "step_000000004")
    resumed = ranks.run(2, run_steps, config, str(tmp_path / "run"), 6)[0]
    assert resumed["first"] == 3
    assert resumed["losses"] == whole["losses"][3:]
    passed = [event for event in resumed["events"] if event["event"] == "checkpoint_passed_over"]
    assert len(passed) == 1 and "step_000000004" in passed[0]["checkpoint"]


def test_a_rank_that_cannot_write_costs_the_checkpoint_and_not_the_run(ranks: RankPool, tmp_path: Path) -> None:
    """As with a full disk: the other ranks hear of it, nothing half-written stays, training goes on."""
    config = tiny(checkpoint={"asynchronous": False})  # else a save in flight may clear the obstacle away
    result = ranks.run(2, _with_keywords, config, str(tmp_path), 5, {"break_step": 3})[0]
    assert [e["step"] for e in result["events"] if e["event"] == "checkpoint_failed"] == [3]
    assert [e["step"] for e in result["events"] if e["event"] == "saved"] == [1, 2, 4, 5]
    assert names(tmp_path) == ["step_000000004", "step_000000005"]


def _with_keywords(config: RunConfig, root: str, stop: int, keywords: dict[str, Any]) -> dict[str, Any]:
    return run_steps(config, root, stop, **keywords)


def test_all_ranks_stop_where_one_was_asked_to(ranks: RankPool, tmp_path: Path) -> None:
    results = ranks.run(4, _with_keywords, tiny(parallel={"tensor": 2}), str(tmp_path), 9, {"stop_on_rank": 3})
    assert [result["step"] for result in results] == [3, 3, 3, 3]


def test_policies(ranks: RankPool, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    missing = ranks.run(1, run_steps, tiny(checkpoint={"load": "always"}), first, 3)[0]
    assert "there is no sound checkpoint" in missing["error"]
    ranks.run(1, run_steps, tiny(), first, 3)
    assert ranks.run(1, run_steps, tiny(checkpoint={"load": "never"}), first, 2)[0]["first"] == 0
    ranks.run(1, run_steps, tiny(), first, 3)
    source = {"source": first}
    assert ranks.run(1, run_steps, tiny(checkpoint={"load": "always", **source}), second, 4)[0]["first"] == 3
    warm = {"load": "warm_start", **source}
    third = str(tmp_path / "third")
    begun = ranks.run(1, run_steps, tiny(checkpoint=warm), third, 2)[0]
    assert (begun["first"], begun["events"][0]["event"]) == (0, "warm_started")
    again = ranks.run(1, run_steps, tiny(checkpoint=warm), third, 3)[0]
    assert (again["first"], again["events"][0]["event"]) == (2, "resumed")


@pytest.mark.parametrize(
    ("sections", "tokenizer", "expected"),
    [
        ({"model": {"d_ff": 64}}, "abc", "d_ff is 48 there and 64 here"),
        ({"optim": {"name": "sgd"}}, "abc", "optimizer adamw, this run uses sgd"),
        ({}, "xyz", "another tokenizer: abc, with a vocabulary of 64, there; xyz, with 64, here"),
    ],
)
def test_foreign_checkpoints_are_refused(
    ranks: RankPool, tmp_path: Path, sections: dict[str, Any], tokenizer: str, expected: str
) -> None:
    ranks.run(1, run_steps, tiny(), str(tmp_path), 1)
    refused = ranks.run(1, _with_keywords, tiny(**sections), str(tmp_path), 2, {"tokenizer": tokenizer})[0]
    assert expected in refused["error"]


def test_other_format_says_what_to_do(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(1, run_steps, tiny(), str(tmp_path), 1)
    path = tmp_path / "checkpoints" / "step_000000001" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
    result = ranks.run(1, run_steps, tiny(), str(tmp_path), 2)[0]  # it must not begin anew, and delete what is there
    assert "has format 0, this version reads format 1: go on with the version that wrote it" in result["error"]
    assert names(tmp_path) == ["step_000000001"]
