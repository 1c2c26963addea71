"""Training begins on what is published, while preparation goes on in another process, and keeps to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from launch.cluster.local.warm import RankPool
from launch.run.data_preparation import resolve
from tests.e2e.ranks import PATIENCE, Ranks, configuration
from tests.e2e.test_data_prepare import run_prepare, texts, wait_until, write_files
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.data.store.manifest import FILE, Manifest
from trainer.plan.resolve import with_data

pytestmark = pytest.mark.e2e


def growing(root: Path, path: str, **data: Any) -> RunConfig:
    sources = [{"name": "docs", "path": path}]
    tokenizer = {"kind": "bytes"}
    return configuration(
        root, 40, data={"root": str(root), "sources": sources, "tokenizer": tokenizer, "begin": "published", **data}
    )


def published(directory: Path) -> int:
    return len(Manifest.open(directory).shards("train")) if (directory / FILE).exists() else 0


def test_all_ranks_and_restarts_keep_to_what_was_published_when_the_run_began(
    tmp_path: Path, rank_pool: RankPool
) -> None:
    """The run is killed when the set has grown and goes on: its losses are those of a run on the first shards alone."""
    config = growing(tmp_path, write_files(tmp_path / "in", texts(11, 12_000), 8))
    directory = Path(config.data.directory)
    preparation = run_prepare(config.data, "--workers", "1")
    wait_until(lambda: published(directory) >= 2)
    os.killpg(preparation.pid, signal.SIGSTOP)  # or it is done before the ranks have started
    assert not Manifest.open(directory).complete
    config = with_data(config, Manifest.open(directory))
    ranks = Ranks(rank_pool, config, tmp_path / "run", 2)
    ranks.start()
    wait_until(lambda: bool(ranks.events("started")))
    first = published(directory)
    os.killpg(preparation.pid, signal.SIGCONT)
    wait_until(lambda: published(directory) > first)
    ranks.until_saved(5)
    for name in ranks.alive():
        rank_pool.signal(name, signal.SIGKILL)
    ranks.end(time.monotonic() + PATIENCE)
    assert 0 < ranks.rows() < 40
    assert preparation.wait(timeout=120) == 0

    begun, now = json.loads(ranks.run_dir.data.read_text()), Manifest.open(directory)
    assert now.complete and len(now.shards("train")) == 8 and begun["shards"]["train"] < 8
    rows = ranks.finish()
    assert ranks.events("resumed")

    alone = tmp_path / "alone"
    shutil.copytree(directory, alone / config.data.name)
    now.prefix(begun["shards"]).save(alone / config.data.name)
    control = Ranks(
        rank_pool,
        config.model_copy(update={"data": config.data.model_copy(update={"root": str(alone)})}),
        tmp_path / "control",
        2,
    )
    assert control.finish() == rows
    results = [json.loads(run.run_dir.result.read_text()) for run in (ranks, control)]
    for key in ("data_hash", "unique_tokens", "train_loss"):
        assert results[0][key] == results[1][key]
    assert results[0]["data_hash"] == begun["data_hash"] != now.data_hash


def test_a_set_of_which_nothing_is_published_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nothing of the data set 'tiny' is published in .* yet: start escala data prep"
    ):
        resolve(growing(tmp_path, "nowhere.jsonl"))
