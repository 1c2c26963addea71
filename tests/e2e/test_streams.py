"""A run that carries states from step to step: killed and resumed, it ends as if nothing had happened."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from launch.cluster.local.warm import RankPool
from launch.run.data_preparation import resolve
from tests.e2e.ranks import Ranks, configuration
from trainer.checkpoint.manifest import list_checkpoints, read_manifest

STEPS = 14
MODELS: dict[str, dict[str, Any]] = {
    "lstm": {"n_heads": None, "mixer": "lstm"},
    "transformer-xl": {"position": "relative", "memory": 48},
}


@pytest.mark.e2e
@pytest.mark.parametrize("kind", MODELS)
def test_killed_and_resumed_the_losses_are_those_of_an_undisturbed_run(
    tmp_path: Path, rank_pool: RankPool, prepared: Path, kind: str
) -> None:
    """Bit for bit on two data ranks with two micro-batches each; in tolerance where one rank reads all lanes."""
    model = {**MODELS[kind], "carry": True}
    config, _ = resolve(
        configuration(
            prepared, STEPS, model=model, data={"order": "streams", "document_mask": kind == "lstm"},
            batch={"micro_batch": 4}, optim={"eps": 1e-6}, checkpoint={"every": "4 steps"},
            evaluation={"every": "5 steps"},
        )
    )  # fmt: skip
    expected = Ranks(rank_pool, config, tmp_path / "whole", 2).finish()
    ranks = Ranks(rank_pool, config, tmp_path / "killed", 2)
    ranks.start()
    ranks.until_saved(4)
    rank_pool.signal(f"{ranks.attempt}/1", signal.SIGKILL)
    ranks.end(time.monotonic() + 45)
    shutil.copytree(ranks.run_dir.root, tmp_path / "alone")
    newest, *_ = list_checkpoints(ranks.run_dir.checkpoints)
    assert read_manifest(newest).state["carried"] == {"lanes": 16, "data": 2, "tensor": 1}
    assert ranks.finish() == expected
    assert ranks.events("resumed"), "it began anew"

    alone = Ranks(rank_pool, config, tmp_path / "alone", 1)
    alone.attempt = 1  # the copy holds that of the killed one
    rows = alone.finish()
    assert alone.events("resumed") and [row[:2] for row in rows] == [row[:2] for row in expected]
    assert max(abs(a[2] - b[2]) for a, b in zip(rows, expected, strict=True)) < 1e-5
