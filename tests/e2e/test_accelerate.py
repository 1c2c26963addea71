"""`accelerate launch` starts a run as torchrun does, and the second engine trains it as the first does."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.cluster.accelerate.backend import AccelerateBackend
from launch.cluster.job import JobSpec, JobState
from launch.cluster.local.warm import RankPool, rank_environment
from tests.e2e.ranks import PATIENCE, ROOT, Ranks, configuration, free_port
from trainer.config.load import dump
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import RunDir, Status

pytestmark = pytest.mark.e2e


def losses(run: RunDir) -> list[float]:
    return [row["loss"] for row in rows_of(run.metrics) if row["kind"] == "train"]


def test_a_run_is_started_by_accelerate(prepared: Path, rank_pool: RankPool, tmp_path: Path) -> None:
    config = configuration(prepared, 8)
    other = config.model_copy(update={"parallel": config.parallel.model_copy(update={"engine": "fsdp"})})
    run = RunDir(tmp_path / "accelerated")
    run.root.mkdir()
    run.config.write_text(dump(other))
    words = ("-m", "trainer.train", "--run-dir", str(run.root))
    spec = JobSpec("accelerated", words, run.root, ranks_per_node=2, extras={"main_process_port": free_port()})
    backend = AccelerateBackend(python=sys.executable)
    job = backend.submit(spec)
    assert backend.status([job])[job].state is JobState.PENDING
    command = backend.start(spec)
    environment = rank_environment(os.environ, threads=1)
    subprocess.run(shlex.split(command), cwd=ROOT, env=environment, check=True, timeout=300)
    assert backend.status([job])[job].state is JobState.DONE
    assert run.read_status() is Status.DONE

    (tmp_path / "ours").mkdir()
    ranks = Ranks(rank_pool, config, tmp_path / "ours", 2)
    ranks.start()
    ranks.end(time.monotonic() + PATIENCE)
    assert set(ranks.codes.values()) == {0}
    assert losses(run) == pytest.approx(losses(ranks.run_dir), abs=2e-6)
    assert len(losses(run)) == 8
