"""SIGKILL to everything that trains at once: nothing stays behind, and the same command goes on to the same losses."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launch.cluster.local.warm import RankPool
from launch.run.data_preparation import resolve
from tests.e2e.ranks import ROOT, Ranks, configuration
from tests.e2e.test_data_prepare import shared_memory, wait_until
from tests.e2e.test_data_remote import Server
from trainer.config.load import dump
from trainer.config.run import RunConfig
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import RunDir, Status, write_atomically

pytestmark = pytest.mark.e2e
STEPS = 60
BATCH = {"tokens_per_step": 2048}  # more than one pass over the data in all


@pytest.fixture
def server(prepared: Path) -> Iterator[Server]:
    running = Server(prepared / "data")
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def train(config: RunConfig, root: Path) -> subprocess.Popen[bytes]:
    """Start `escala train` with two ranks, in a process group and with a temporary directory of its own."""
    write_atomically(root / "run.yaml", dump(config))
    (root / "temporary").mkdir(exist_ok=True)
    with (root / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "launch", "train", str(root / "run.yaml"), "--runs", str(root), "--ranks", "2"],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(root / "temporary")},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all that come from it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def test_nothing_stays_behind_and_the_same_command_completes_the_run(
    tmp_path: Path, rank_pool: RankPool, prepared: Path, server: Server
) -> None:
    """The shards come over HTTP through the cache and are read ahead of the steps, in two ranks."""
    local, _ = resolve(configuration(prepared, STEPS, name="run", batch=BATCH))
    expected = Ranks(rank_pool, local, tmp_path / "expected", 2).finish()
    remote = {"root": server.url, "cache": {"directory": str(tmp_path / "cache")}}
    config = configuration(prepared, STEPS, name="run", batch=BATCH, data=remote)
    before, run_dir = shared_memory(), RunDir(tmp_path / "run")

    first = train(config, tmp_path)
    metrics = run_dir.metrics
    wait_until(lambda: first.poll() is not None or run_dir.latest.exists())  # a checkpoint to go on from
    assert first.poll() is None, (tmp_path / "output").read_text()
    everyone = family(first.pid)
    assert len(everyone) >= 3
    for process in reversed(everyone):  # ranks first: those that outlive the launcher save and stop by themselves
        process.kill()
    first.wait()
    _, alive = psutil.wait_procs(everyone, timeout=20)
    assert not alive
    assert shared_memory() <= before
    assert not list((tmp_path / "temporary").rglob("*"))
    assert list((tmp_path / "cache").rglob("*.bin"))
    assert run_dir.read_status() is Status.RUNNING

    assert train(config, tmp_path).wait(timeout=240) == 0, (tmp_path / "output").read_text()
    assert [(row["kind"], row["step"], row["loss"]) for row in rows_of(metrics)] == expected
    events = {event["event"]: event for event in rows_of(run_dir.events)}
    assert "resumed" in events and events["pass_ended"]["passes"] == 1
    assert shared_memory() <= before and not list((tmp_path / "temporary").rglob("*"))
