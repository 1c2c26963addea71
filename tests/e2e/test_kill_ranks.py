"""Kill random ranks at random moments, saves included, and resume: the run ends as if nothing had happened.

As a test: three kills on two ranks. The long version, any time:

    python -m tests.e2e.test_kill_ranks --kills 50 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from launch.backends.warm import RankPool, rank_environment
from launch.data_preparation import resolve
from trainer.config.base import parse_section
from trainer.config.load import dump
from trainer.config.run import RunConfig
from trainer.run_dir import EXIT_PREEMPTED, RunDir, Status, read_json_lines, write_atomically

ROOT = Path(__file__).resolve().parents[2]
PRELOAD = ("torch", "torch._dynamo", "deepspeed", "trainer.train")
PATIENCE = 120.0  # seconds that an attempt may take before the test gives up


def configuration(root: Path, steps: int, tensor: int) -> RunConfig:
    """Return a tiny run that logs every step and saves every fifth, on data of its own."""
    return parse_section(
        RunConfig,
        {
            "name": "kill",
            "model": {"d_model": 32, "n_layers": 2, "n_heads": 4, "context_length": 32, "vocab_multiple_of": 8},
            "data": {
                "name": "kill",
                "root": str(root / "data"),
                "sources": [{"path": "embedded", "max_bytes": 300_000}],
                "held_out_fraction": 0.2,
                "tokenizer": {"vocab_size": 512, "sample_bytes": 200_000},
            },
            "batch": {"tokens_per_step": 512},
            "steps": steps,
            "parallel": {"tensor": tensor, "timeout_seconds": 30.0},
            "checkpoint": {"every": "5 steps"},
            "tracking": {"log_every": "1 steps", "wandb": "disabled"},
            "evaluation": {"tokens": 4096},
            "device": "cpu",
        },
        "kill",
    )


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Ranks:
    """One run's ranks in a directory of its own: start an attempt, kill one, wait for the end."""

    def __init__(self, pool: RankPool, config: RunConfig, directory: Path, world: int) -> None:
        self.pool, self.config, self.run_dir, self.world = pool, config, RunDir(directory), world
        self.attempt = 0
        write_atomically(self.run_dir.config, dump(config))

    def start(self) -> None:
        """Start the next attempt."""
        self.attempt += 1
        self.running: dict[str, int] = {}
        self.codes: dict[str, int] = {}
        logs = self.run_dir.logs(self.attempt)
        logs.mkdir(parents=True)
        port = str(free_port())
        for rank in range(self.world):
            environment = {
                **rank_environment(os.environ, threads=1),
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.world),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ESCALA_ATTEMPT": str(self.attempt),
            }  # fmt: skip
            command = ["-m", "trainer.train", "--run-dir", str(self.run_dir.root)]
            self.pool.fork(f"{self.attempt}/{rank}", command, environment, ROOT, logs / f"rank_{rank}.log")

    def hear(self, timeout: float) -> None:
        """Take in what happened to ranks."""
        for event in self.pool.events(timeout):
            if "started" in event:
                self.running[event["started"]] = event["pid"]
            elif "exited" in event:
                self.running.pop(event["exited"], None)
                self.codes[event["exited"]] = event["code"]

    def end(self, deadline: float) -> None:
        """Wait until all ranks of the attempt are gone; end those that hang for a peer that was killed."""
        while len(self.codes) < self.world and time.monotonic() < deadline:
            self.hear(0.2)
        for identity in list(self.running):
            self.pool.signal(identity, signal.SIGKILL)
        while len(self.codes) < self.world:
            self.hear(1.0)

    def rows(self) -> int:
        """Return how many rows the run has recorded."""
        path = self.run_dir.metrics
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def step_events(self, name: str) -> int:
        return sum(event["event"] == name for event in read_json_lines(self.run_dir.events))


def kill_once(ranks: Ranks, chance: random.Random) -> str:
    """Start an attempt, kill one rank at a random moment of its training or saving, and wait for the rest."""
    began = ranks.step_events("started")
    ranks.start()
    deadline = time.monotonic() + PATIENCE
    while ranks.step_events("started") == began and len(ranks.codes) < ranks.world:
        assert time.monotonic() < deadline, "the attempt did not start"
        ranks.hear(0.02)
    saves = ranks.step_events("saving")
    at_save = chance.random() < 0.4
    if at_save:  # the moment when a save has begun, and a little later
        while ranks.step_events("saving") == saves and ranks.running and time.monotonic() < deadline:
            ranks.hear(0.001)
        time.sleep(chance.random() * 0.02)
    else:
        rows = ranks.rows() + chance.randrange(12)
        while ranks.rows() < rows and ranks.running and time.monotonic() < deadline:
            ranks.hear(0.002)
        time.sleep(chance.random() * 0.05)
    ranks.hear(0)
    victims = sorted(ranks.running)
    if victims:
        ranks.pool.signal(chance.choice(victims), signal.SIGKILL)
    ranks.end(time.monotonic() + 45)
    return "at a save" if at_save else "while training"


def finish(ranks: Ranks) -> list[dict[str, Any]]:
    """Run to the end and return the rows of metrics.jsonl."""
    ranks.start()
    ranks.end(time.monotonic() + PATIENCE)
    log = ranks.run_dir.logs(ranks.attempt) / "rank_0.log"
    assert ranks.run_dir.read_status() is Status.DONE, log.read_text()
    return list(read_json_lines(ranks.run_dir.metrics))


def losses(rows: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
    """Return what must not change: kind, step and loss of each row, in the order of the file."""
    return [(row["kind"], row["step"], row["loss"]) for row in rows]


def compare_with_uninterrupted(root: Path, *, kills: int, seed: int, steps: int, world: int, tensor: int) -> int:
    """Train without and with kills; assert that both recorded the same. Returns how often a checkpoint was resumed."""
    chance = random.Random(seed)
    config, _ = resolve(configuration(root, steps, tensor))
    pool = RankPool(rank_environment(os.environ, threads=1), root / "rank_server.log", PRELOAD)
    try:
        whole = finish(Ranks(pool, config, root / "whole", world))
        ranks = Ranks(pool, config, root / "killed", world)
        for number in range(kills):
            moment = kill_once(ranks, chance)
            print(f"kill {number + 1} of {kills} {moment}: {ranks.codes}, {_progress(ranks)}", flush=True)
        rows = finish(ranks)
    finally:
        pool.close()
    assert losses(rows) == losses(whole)
    return ranks.step_events("resumed")


def _progress(ranks: Ranks) -> str:
    latest = ranks.run_dir.latest
    return latest.read_text().strip() if latest.exists() else "no checkpoint yet"


@pytest.mark.e2e
def test_killed_ranks_resume_without_a_trace(tmp_path: Path) -> None:
    resumed = compare_with_uninterrupted(tmp_path, kills=3, seed=0, steps=60, world=2, tensor=1)
    assert resumed >= 1


@pytest.mark.e2e
def test_one_rank_asked_to_stop_stops_all_with_the_agreed_code(tmp_path: Path) -> None:
    config, _ = resolve(configuration(tmp_path, 400, 1))
    pool = RankPool(rank_environment(os.environ, threads=1), tmp_path / "rank_server.log", PRELOAD)
    try:
        ranks = Ranks(pool, config, tmp_path / "run", 2)
        ranks.start()
        deadline = time.monotonic() + PATIENCE
        while ranks.rows() < 3 and time.monotonic() < deadline:
            ranks.hear(0.02)
        pool.signal("1/1", signal.SIGTERM)
        ranks.end(deadline)
    finally:
        pool.close()
    assert set(ranks.codes.values()) == {EXIT_PREEMPTED}
    assert ranks.run_dir.read_status() is Status.PREEMPTED
    steps = [row["step"] for row in read_json_lines(ranks.run_dir.metrics)]
    assert ranks.run_dir.latest.read_text().strip() == f"step_{steps[-1]:09d}"


def main() -> None:
    """Entry point of the long version."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--tensor", type=int, default=1)
    a = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="escala-kill-") as root:
        resumed = compare_with_uninterrupted(
            Path(root), kills=a.kills, seed=a.seed, steps=a.steps, world=a.ranks, tensor=a.tensor
        )
    seconds = time.monotonic() - began
    print(json.dumps({"kills": a.kills, "resumed": resumed, "losses": "equal", "seconds": round(seconds)}))


if __name__ == "__main__":
    main()
