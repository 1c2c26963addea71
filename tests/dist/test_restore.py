"""Damaged checkpoints are passed over, and ranks that see the directory at several ages agree or stop."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.dist.keeper_runs import aside, event, run_steps
from tests.dist.pool import RankPool
from tests.dist.runs import tiny
from trainer.config.run import RunConfig


def flip_a_bit(checkpoint: Path) -> None:
    path = checkpoint / "rank_00001.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def tear(checkpoint: Path) -> None:
    os.truncate(checkpoint / "rank_00000.safetensors", 1000)


def lose_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def empty_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text("[]")


def change_a_digit(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text().replace('"step": 4.0', '"step": 5.0'))  # of the optimizer


def make_the_manifest_unreadable(checkpoint: Path) -> None:
    lose_the_manifest(checkpoint)
    (checkpoint / "manifest.json").mkdir()


def make_a_file_unreadable(checkpoint: Path) -> None:
    path = checkpoint / "rank_00000.safetensors"
    path.unlink()
    path.symlink_to(path.name)  # opening it ends in ELOOP


def copy_from_an_older_step(checkpoint: Path) -> None:
    older = checkpoint.with_name("step_000000003")
    (checkpoint / "manifest.json").write_bytes((older / "manifest.json").read_bytes())


DAMAGES = [
    flip_a_bit, tear, lose_the_manifest, empty_the_manifest, change_a_digit, make_the_manifest_unreadable,
    make_a_file_unreadable, copy_from_an_older_step,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(ranks: RankPool, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the losses of six steps that nothing disturbs."""
    place = str(tmp_path_factory.mktemp("whole"))
    losses: list[float] = ranks.run(2, run_steps, tiny(parallel={"tensor": 2}), place, 6)[0]["losses"]
    return losses


@pytest.fixture(scope="module")
def four_steps(ranks: RankPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that was stopped after four steps; to be copied, not to be changed."""
    place = tmp_path_factory.mktemp("four")
    ranks.run(2, run_steps, tiny(parallel={"tensor": 2}), str(place), 4)
    return place


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_is_passed_over_and_the_run_ends_the_same(
    ranks: RankPool, tmp_path: Path, whole: list[float], four_steps: Path, damage: Any
) -> None:
    config = tiny(parallel={"tensor": 2})
    shutil.copytree(four_steps, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "step_000000004")
    resumed = ranks.run(2, run_steps, config, str(tmp_path / "run"), 6)[0]
    assert resumed["first"] == 3
    assert resumed["losses"] == whole[3:]
    said = event(resumed, "resumed")
    (passed,) = said["passed_over"]
    assert passed["checkpoint"] == "step_000000004" and passed["problem"]
    assert said["lost_steps"] == 1
    assert aside(tmp_path / "run") == ["step_000000004-damaged"]
    assert (tmp_path / "run" / "latest").read_text() == "step_000000006\n"


def with_a_stale_listing(config: RunConfig, root: str, stop: int) -> dict[str, Any]:
    """As `run_steps`, where the last rank's listing of the directory is older than the newest checkpoint."""
    import trainer.checkpoint.search as search

    listing = search.list_checkpoints
    if os.environ["RANK"] != "0":
        search.list_checkpoints = lambda root: listing(root)[1:]
    try:
        return run_steps(config, root, stop)
    finally:
        search.list_checkpoints = listing


def test_a_stale_listing_on_one_rank_changes_nothing(ranks: RankPool, tmp_path: Path, whole: list[float]) -> None:
    config = tiny(parallel={"tensor": 2})
    ranks.run(2, run_steps, config, str(tmp_path / "run"), 3)
    results = ranks.run(2, with_a_stale_listing, config, str(tmp_path / "run"), 5)
    assert [result["first"] for result in results] == [3, 3]
    assert results[0]["losses"] == results[1]["losses"] == whole[3:5]


def with_stale_files(config: RunConfig, root: str, stop: int) -> dict[str, Any]:
    """As `run_steps`, where the last rank opens a file of the step before under the name of the newest."""
    import trainer.checkpoint.load as loading

    opening = loading.safe_open
    if os.environ["RANK"] != "0":
        loading.safe_open = lambda path, framework: opening(
            str(path).replace("step_000000003", "step_000000002"), framework=framework
        )
    try:
        return run_steps(config, root, stop)
    finally:
        loading.safe_open = opening


def test_weights_of_two_steps_are_refused_before_the_first_update(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(2, run_steps, tiny(), str(tmp_path), 3)
    results = ranks.run(2, with_stale_files, tiny(), str(tmp_path), 5)
    assert results[0]["error"] == results[1]["error"]
    assert "ranks would train on weights of different checkpoints" in results[0]["error"]
    assert "rank 0: step 3" in results[0]["error"] and "rank 1: step 3" in results[0]["error"]
    assert "a file of step 2" in results[0]["error"]


def with_a_blind_rank(config: RunConfig, root: str, stop: int) -> dict[str, Any]:
    """As `run_steps`, where the last rank does not see the newest checkpoint's files."""
    import trainer.checkpoint.restore as restoring

    seen, patience = restoring.size_problem, restoring.SIGHT_SECONDS
    restoring.SIGHT_SECONDS = 0.0
    if os.environ["RANK"] != "0":
        restoring.size_problem = lambda checkpoint, name, file: f"{name} is missing"
    try:
        return run_steps(config, root, stop)
    finally:
        restoring.size_problem, restoring.SIGHT_SECONDS = seen, patience


def test_a_rank_without_the_directory_costs_no_checkpoint(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(2, run_steps, tiny(), str(tmp_path), 3)
    results = ranks.run(2, with_a_blind_rank, tiny(), str(tmp_path), 5)
    assert "not all ranks see" in results[0]["error"] and "rank 1: rank_00001.safetensors" in results[0]["error"]
    assert results[0]["error"] == results[1]["error"]
    assert not aside(tmp_path)
