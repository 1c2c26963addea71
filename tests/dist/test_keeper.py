"""Retention, policies, failed writes, and what a run sets aside of its former courses."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.dist.keeper_runs import aside, event, names, run_steps, with_keywords
from tests.dist.pool import RankPool
from tests.dist.runs import tiny
from trainer.checkpoint.manifest import hash_file, read_manifest


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_a_run_whose_batch_rises_goes_on_bit_by_bit(ranks: RankPool, tmp_path: Path, zero_stage: int) -> None:
    config, rise = tiny(parallel={"zero_stage": zero_stage}), {"sizes": (2, 2, 4, 4), "save_every": 20}
    whole = ranks.run(2, with_keywords, config, str(tmp_path / "whole"), 7, {**rise})[0]
    root = str(tmp_path / "cut")
    cut = [ranks.run(2, with_keywords, config, root, stop, {**rise, "save_every": 3})[0] for stop in (3, 7)]
    assert [one["first"] for one in cut] == [0, 3]
    assert cut[0]["losses"] + cut[1]["losses"] == whole["losses"]


def test_retention_keeps_the_newest_and_every_fourth(ranks: RankPool, tmp_path: Path) -> None:
    result = ranks.run(2, run_steps, tiny(checkpoint={"keep_last": 2}), str(tmp_path), 7)[0]
    assert names(tmp_path) == ["step_000000004", "step_000000006", "step_000000007"]
    assert (tmp_path / "latest").read_text() == "step_000000007\n"
    assert [event["step"] for event in result["events"] if event["event"] == "saved"] == list(range(1, 8))


def test_a_rank_that_cannot_write_costs_the_checkpoint_and_not_the_run(ranks: RankPool, tmp_path: Path) -> None:
    """As with a full disk: the other ranks hear of it, nothing half-written stays, training goes on."""
    config = tiny(checkpoint={"asynchronous": False})  # else a save in flight may clear the obstacle away
    result = ranks.run(2, with_keywords, config, str(tmp_path), 5, {"break_step": 3})[0]
    assert [e["step"] for e in result["events"] if e["event"] == "checkpoint_failed"] == [3]
    assert [e["step"] for e in result["events"] if e["event"] == "saved"] == [1, 2, 4, 5]
    assert names(tmp_path) == ["step_000000004", "step_000000005"]


def test_all_ranks_stop_where_one_was_asked_to(ranks: RankPool, tmp_path: Path) -> None:
    results = ranks.run(4, with_keywords, tiny(parallel={"tensor": 2}), str(tmp_path), 9, {"stop_on_rank": 3})
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


def test_a_damaged_checkpoint_of_a_warm_starts_source_costs_no_progress(ranks: RankPool, tmp_path: Path) -> None:
    source = tmp_path / "source"
    ranks.run(1, run_steps, tiny(), str(source), 3)
    (source / "checkpoints" / "step_000000003" / "manifest.json").write_text("{")
    warm = tiny(checkpoint={"load": "warm_start", "source": str(source)})
    result = ranks.run(2, run_steps, warm, str(tmp_path / "run"), 1)[0]
    started = event(result, "warm_started")
    assert Path(started["checkpoint"]).name == "step_000000002"
    assert [row["checkpoint"] for row in started["passed_over"]] == ["step_000000003"]
    assert "began_anew" not in [row["event"] for row in result["events"]]


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
    refused = ranks.run(1, with_keywords, tiny(**sections), str(tmp_path), 2, {"tokenizer": tokenizer})[0]
    assert expected in refused["error"]


def test_other_format_says_what_to_do(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(1, run_steps, tiny(), str(tmp_path), 1)
    checkpoint = tmp_path / "checkpoints" / "step_000000001"
    manifest = replace(read_manifest(checkpoint), format=3)
    (checkpoint / "manifest.json").write_text(manifest.to_json())
    result = ranks.run(1, run_steps, tiny(), str(tmp_path), 2)[0]  # it must not begin anew, and delete what is there
    assert "has format 3, this version reads formats 1 and 2: go on with the version that wrote it" in result["error"]
    assert names(tmp_path) == ["step_000000001"]


def write_in_format_1(checkpoint: Path) -> None:
    """Write the manifest as it was before it named a trajectory and had a hash of itself."""
    path = checkpoint / "manifest.json"
    values = {**json.loads(path.read_text()), "format": 1}
    del values["sha256"], values["trajectory"], values["state"]["settings"]
    path.write_text(json.dumps(values, indent=1) + "\n")


def test_checkpoints_of_format_1_go_on(ranks: RankPool, tmp_path: Path) -> None:
    config = tiny(checkpoint={"keep_last": 2})
    whole = ranks.run(2, run_steps, config, str(tmp_path / "whole"), 7)[0]
    ranks.run(2, run_steps, config, str(tmp_path / "run"), 3)
    for step in (2, 3):
        write_in_format_1(tmp_path / "run" / "checkpoints" / f"step_{step:09d}")
    resumed = ranks.run(2, run_steps, config, str(tmp_path / "run"), 4)[0]
    assert (resumed["first"], names(tmp_path / "run")) == (3, ["step_000000003", "step_000000004"])
    tail = ranks.run(2, run_steps, config, str(tmp_path / "run"), 7)[0]
    assert resumed["losses"] + tail["losses"] == whole["losses"][3:]
    assert not aside(tmp_path / "run")


def test_a_damaged_newest_is_no_reason_to_delete_what_is_saved_after_it(ranks: RankPool, tmp_path: Path) -> None:
    config = tiny(checkpoint={"keep_last": 1})
    ranks.run(1, with_keywords, config, str(tmp_path), 6, {"save_every": 6})
    os.truncate(tmp_path / "checkpoints" / "step_000000006" / "rank_00000.safetensors", 1000)
    begun = ranks.run(1, run_steps, config, str(tmp_path), 2)[0]
    said = event(begun, "began_anew")
    assert (begun["first"], said["lost_steps"], said["passed_over"][0]["checkpoint"]) == (0, 6, "step_000000006")
    assert (names(tmp_path), aside(tmp_path)) == (["step_000000002"], ["step_000000006-damaged"])
    assert (tmp_path / "latest").read_text() == "step_000000002\n"
    assert ranks.run(1, run_steps, config, str(tmp_path), 3)[0]["first"] == 2


def test_another_start_sets_the_former_checkpoints_aside(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(1, run_steps, tiny(), str(tmp_path), 3)
    anew = ranks.run(1, run_steps, tiny(checkpoint={"load": "never"}), str(tmp_path), 1)[0]
    assert event(anew, "began_anew")["lost_steps"] == 3
    assert names(tmp_path) == ["step_000000001"]
    assert aside(tmp_path) == ["step_000000002-abandoned", "step_000000003-abandoned"]
    assert ranks.run(1, run_steps, tiny(), str(tmp_path), 2)[0]["first"] == 1  # not 3, of the course that was left


def test_an_older_checkpoint_of_another_start_is_set_aside(ranks: RankPool, tmp_path: Path) -> None:
    """It would be gone on from once the newest is damaged, and the curve would be that of two runs."""
    ranks.run(1, run_steps, tiny(), str(tmp_path / "other"), 1)
    ranks.run(1, run_steps, tiny(), str(tmp_path / "run"), 3)
    copied = tmp_path / "run" / "checkpoints" / "step_000000001"
    shutil.copytree(tmp_path / "other" / "checkpoints" / "step_000000001", copied)
    ranks.run(1, run_steps, tiny(), str(tmp_path / "run"), 4)
    assert aside(tmp_path / "run") == ["step_000000001-abandoned"]


def test_a_deleted_newest_is_said(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(1, run_steps, tiny(), str(tmp_path), 4)
    shutil.rmtree(tmp_path / "checkpoints" / "step_000000004")
    said = event(ranks.run(1, run_steps, tiny(), str(tmp_path), 4)[0], "resumed")
    assert (said["step"], said["lost_steps"]) == (3, 1)
    assert "`latest` names it" in said["passed_over"][0]["problem"]


def test_steps_to_skip_send_the_run_back_before_them(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(1, run_steps, tiny(checkpoint={"keep_last": 4}), str(tmp_path), 4)
    back = ranks.run(1, with_keywords, tiny(), str(tmp_path), 5, {"skip": ((2, 3),)})[0]
    assert back["first"] == 2 and event(back, "resumed")["lost_steps"] == 2
    assert aside(tmp_path) == ["step_000000003-abandoned", "step_000000004-abandoned"]
    nowhere = ranks.run(1, with_keywords, tiny(), str(tmp_path), 5, {"skip": ((0, 1),)})[0]
    assert "steps 0:1 cannot be skipped" in nowhere["error"]


def test_other_settings_are_said_by_name_and_another_order_is_refused(ranks: RankPool, tmp_path: Path) -> None:
    settings = {"optim.lr": 3e-3, "optim.weight_decay": 0.1, "seed": 0, "steps": 20, "schedule": {"kind": "constant"}}
    ranks.run(1, with_keywords, tiny(), str(tmp_path), 1, {"settings": settings})
    other = {**settings, "optim.lr": 3e-2, "optim.weight_decay": 0.2}
    result = ranks.run(1, with_keywords, tiny(), str(tmp_path), 2, {"settings": other})[0]
    assert event(result, "settings_changed")["changed"] == {
        "optim.lr": {"there": 3e-3, "here": 3e-2}, "optim.weight_decay": {"there": 0.1, "here": 0.2},
    }  # fmt: skip
    refused = ranks.run(1, with_keywords, tiny(), str(tmp_path), 3, {"settings": {**settings, "seed": 1}})[0]
    assert "was trained with seed 0 there and 1 here: the order of data would not go on" in refused["error"]


def test_files_that_name_no_step_can_be_started_from(ranks: RankPool, tmp_path: Path) -> None:
    """Such as those of format 1, and of an imported model."""
    ranks.run(1, run_steps, tiny(), str(tmp_path / "first"), 1)
    checkpoint = tmp_path / "first" / "checkpoints" / "step_000000001"
    path, manifest = checkpoint / "rank_00000.safetensors", read_manifest(checkpoint)
    save_file(load_file(path), path)
    file = replace(manifest.files[path.name], bytes=path.stat().st_size, sha256=hash_file(path))
    (checkpoint / "manifest.json").write_text(replace(manifest, files={path.name: file}).to_json())
    config = tiny(checkpoint={"load": "warm_start", "source": str(tmp_path / "first")})
    result = ranks.run(2, run_steps, config, str(tmp_path / "second"), 1)[0]
    assert event(result, "warm_started")["checkpoint"] == str(checkpoint)
