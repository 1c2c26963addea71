"""A tiny run whose ranks tests start, signal and kill one by one, attempt after attempt in one run directory."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

from launch.cluster.local.warm import RankPool, rank_environment
from trainer.config.base import parse_section
from trainer.config.load import dump
from trainer.config.run import RunConfig
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import RunDir, Status, write_atomically

ROOT = Path(__file__).resolve().parents[2]
PRELOAD = ("torch", "torch._dynamo", "deepspeed", "trainer.train")
PATIENCE = 120.0  # seconds that an attempt may take before a test gives up


def configuration(root: Path, steps: int, **sections: Any) -> RunConfig:
    """Return a tiny run that logs every step and saves every fifth, on data of its own under `root`."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"d_model": 32, "n_layers": 2, "n_heads": 4, "context_length": 32, "vocab_multiple_of": 8},
        "data": {
            "name": "tiny",
            "root": str(root / "data"),
            "sources": [{"path": "embedded", "max_bytes": 300_000}],
            "held_out_fraction": 0.2,
            "tokenizer": {"vocab_size": 512, "sample_bytes": 200_000},
        },
        "batch": {"tokens_per_step": 512},
        "steps": steps,
        "parallel": {"timeout_seconds": 30.0},
        "checkpoint": {"every": "5 steps"},
        "tracking": {"log_every": "1 steps", "wandb": "disabled"},
        "evaluation": {"tokens": 4096},
        "device": "cpu",
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return parse_section(RunConfig, values, "tiny")


def make_pool(root: Path) -> RankPool:
    """Return a server of ranks that have imported everything; the caller closes it."""
    return RankPool(rank_environment(os.environ, threads=1), root / "rank_server.log", PRELOAD)


def free_port() -> int:
    """Return a port that nobody listens on, below those that the kernel gives to whoever asks for any."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Ranks:
    """One run's ranks in a directory of its own: start an attempt, kill one, wait for the end."""

    def __init__(self, pool: RankPool, config: RunConfig, directory: Path, world: int) -> None:
        self.pool, self.config, self.run_dir, self.world = pool, config, RunDir(directory), world
        self.attempt = 0
        self.running: set[str] = set()  # `<attempt>/<rank>` of all attempts
        self.exits: dict[str, int] = {}

    @property
    def codes(self) -> dict[str, int]:
        """Exit codes of the newest attempt's ranks that have ended."""
        return {name: code for name, code in self.exits.items() if name.startswith(f"{self.attempt}/")}

    def start(
        self,
        config: RunConfig | None = None,
        program: tuple[str, ...] = ("-m", "trainer.train"),
        *,
        write_config: bool = True,
    ) -> None:
        """Start the next attempt; `config` may lay it out anew. A scheduler starts ranks without writing it."""
        self.attempt += 1
        if write_config:
            write_atomically(self.run_dir.config, dump(config or self.config))
        logs = self.run_dir.logs(self.attempt)
        logs.mkdir(parents=True)
        port = str(free_port())
        for rank in range(self.world):
            environment = {
                **rank_environment(os.environ, threads=1),
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.world),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ESCALA_ATTEMPT": str(self.attempt),
            }  # fmt: skip
            command = [*program, "--run-dir", str(self.run_dir.root)]
            name = f"{self.attempt}/{rank}"
            self.running.add(name)
            self.pool.fork(name, command, environment, ROOT, logs / f"rank_{rank}.log")

    def hear(self, timeout: float) -> None:
        """Take in which ranks have ended."""
        for event in self.pool.events(timeout):
            if "exited" in event:
                self.running.discard(event["exited"])
                self.exits[event["exited"]] = event["code"]

    def alive(self) -> list[str]:
        """Return the newest attempt's ranks that still run."""
        return sorted(name for name in self.running if name.startswith(f"{self.attempt}/"))

    def end(self, deadline: float) -> None:
        """Wait until all ranks of the attempt are gone; end those that hang for a peer that was killed."""
        while self.alive() and time.monotonic() < deadline:
            self.hear(0.2)
        for name in self.alive():
            self.pool.signal(name, signal.SIGKILL)
        while self.alive():
            self.hear(1.0)

    def lose_server(self) -> None:
        """Kill the server that all ranks were forked from, and have another one for the next attempt."""
        assert self.pool.server is not None
        self.pool.server.kill()
        self.pool.close()  # the kernel ends ranks whose server has gone
        self.pool.buffer = b""
        self.running.clear()

    def until_rows(self, rows: int, pause: float = 0.02) -> None:
        """Wait until the run has recorded so many rows or has ended."""
        deadline = time.monotonic() + PATIENCE
        while self.rows() < rows and self.alive() and time.monotonic() < deadline:
            self.hear(pause)

    def until_saved(self, step: int) -> None:
        """Wait until a checkpoint of this step or a later one is complete: saving goes on while the run does."""
        deadline = time.monotonic() + PATIENCE
        while self._saved() < step and self.alive() and time.monotonic() < deadline:
            self.hear(0.02)

    def _saved(self) -> int:
        latest = self.run_dir.latest
        return int(latest.read_text().strip().removeprefix("step_")) if latest.exists() else 0

    def rows(self) -> int:
        """Return how many rows the run has recorded."""
        path = self.run_dir.metrics
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the run's events of one name."""
        return [event for event in rows_of(self.run_dir.events) if event["event"] == name]

    def log(self, rank: int = 0) -> str:
        """Return what one rank of the newest attempt printed."""
        return (self.run_dir.logs(self.attempt) / f"rank_{rank}.log").read_text()

    def finish(self, config: RunConfig | None = None) -> list[tuple[str, int, float]]:
        """Run to the end; return kind, step and loss of each recorded row, in the order of the file."""
        self.start(config)
        self.end(time.monotonic() + PATIENCE)
        assert self.run_dir.read_status() is Status.DONE, self.log()
        return [(row["kind"], row["step"], row["loss"]) for row in rows_of(self.run_dir.metrics)]
