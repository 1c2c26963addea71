"""How attempts end: asked to stop, replaced by a newer one, unable to write the last checkpoint; or never begin."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.cli import main
from launch.cluster.local.warm import RankPool
from launch.run.data_preparation import resolve
from tests.e2e.ranks import PATIENCE, Ranks, configuration
from trainer.checkpoint.manifest import read_manifest
from trainer.config.load import dump
from trainer.contract.exit_codes import EXIT_FAILED, EXIT_FENCED, EXIT_PREEMPTED, EXIT_USER_ERROR
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import Status, write_atomically

pytestmark = pytest.mark.e2e


def make(pool: RankPool, data: Path, directory: Path, steps: int) -> Ranks:
    config, _ = resolve(configuration(data, steps))
    return Ranks(pool, config, directory, 2)


def test_one_rank_asked_to_stop_stops_all_with_the_agreed_code(
    tmp_path: Path, rank_pool: RankPool, prepared: Path
) -> None:
    ranks = make(rank_pool, prepared, tmp_path, 400)
    ranks.start()
    ranks.until_rows(3)
    rank_pool.signal("1/1", signal.SIGTERM)
    ranks.end(time.monotonic() + PATIENCE)
    assert set(ranks.codes.values()) == {EXIT_PREEMPTED}
    assert ranks.run_dir.read_status() is Status.PREEMPTED
    steps = [row["step"] for row in rows_of(ranks.run_dir.metrics)]
    assert ranks.run_dir.latest.read_text().strip() == f"step_{steps[-1]:09d}"


def contents(root: Path) -> dict[str, bytes]:
    """Return every file of a run but its logs."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != "logs"
    }


def test_a_stranded_attempt_writes_nothing_and_leaves(tmp_path: Path, rank_pool: RankPool, prepared: Path) -> None:
    """The first attempt freezes, as on a machine that the network lost; a second ends the run; the first thaws."""
    ranks = make(rank_pool, prepared, tmp_path, 100)
    ranks.start()
    ranks.until_rows(7)
    for name in ("1/0", "1/1"):
        rank_pool.signal(name, signal.SIGSTOP)
    frozen = ranks.rows()
    assert frozen < 100
    ranks.finish()
    before = contents(tmp_path)
    for name in ("1/0", "1/1"):
        rank_pool.signal(name, signal.SIGCONT)
    deadline = time.monotonic() + PATIENCE
    while ranks.running and time.monotonic() < deadline:
        ranks.hear(0.2)
    assert {name: ranks.exits[name] for name in ("1/0", "1/1")} == {"1/0": EXIT_FENCED, "1/1": EXIT_FENCED}
    assert contents(tmp_path) == before
    assert "was replaced by attempt 2" in (ranks.run_dir.logs(1) / "rank_0.log").read_text()


def test_a_full_disk_ends_the_run_aloud_and_room_lets_it_go_on(
    tmp_path: Path, rank_pool: RankPool, prepared: Path
) -> None:
    expected = make(rank_pool, prepared, tmp_path / "whole", 30).finish()
    ranks = make(rank_pool, prepared, tmp_path / "run", 30)
    ranks.start()
    ranks.until_saved(10)
    rank_pool.signal("1/1", signal.SIGKILL)
    ranks.end(time.monotonic() + PATIENCE)
    newest = ranks.run_dir.latest.read_text()
    ranks.start(program=("-m", "tests.e2e.small_disk"))
    ranks.end(time.monotonic() + PATIENCE)
    assert set(ranks.codes.values()) == {EXIT_FAILED}
    assert ranks.run_dir.read_status() is Status.FAILED
    assert "error: the checkpoint after step 30 could not be written" in ranks.log()
    assert ranks.run_dir.latest.read_text() == newest
    assert not list(ranks.run_dir.checkpoints.glob(".step_*"))
    assert ranks.finish() == expected


def spoil(checkpoint: Path, key: str, value: str) -> None:
    """Have a checkpoint say that it was trained with another tokenizer or on other data."""
    manifest = read_manifest(checkpoint)
    part = "identity" if key == "tokenizer" else "data"
    state = {**manifest.state, part: {**manifest.state[part], key: value}}
    (checkpoint / "manifest.json").write_text(replace(manifest, state=state).to_json())


def test_foreign_checkpoints_are_refused_before_any_rank_starts(
    tmp_path: Path, rank_pool: RankPool, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make(rank_pool, prepared, tmp_path / "first", 5)
    first.finish()
    checkpoint = first.run_dir.checkpoints / "step_000000005"
    config = configuration(prepared, 9, name="second", checkpoint={"source": str(first.run_dir.root)})
    write_atomically(tmp_path / "second.yaml", dump(config))

    def refused(*assignments: str) -> str:
        sets = [word for assignment in assignments for word in ("--set", assignment)]
        with pytest.raises(SystemExit) as stop:
            main(["train", str(tmp_path / "second.yaml"), "--runs", str(tmp_path / "runs"), *sets])
        assert stop.value.code == EXIT_USER_ERROR
        assert not (tmp_path / "runs" / "second" / "logs").exists()
        return capsys.readouterr().err

    assert "n_layers is 2 there and 3 here" in refused("model.n_layers=3")
    assert "was written with the optimizer adamw, this run uses sgd" in refused("optim.name=sgd")
    spoil(checkpoint, "data_hash", "0123456789abcdef")
    assert "was trained on other data: hash 0123456789abcdef there;" in refused()
    spoil(checkpoint, "tokenizer", "fedcba9876543210")
    assert "was trained with another tokenizer: fedcba9876543210, with a vocabulary of 512, there;" in refused()
