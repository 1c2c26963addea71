"""The processes of this machine's jobs: forked from a warm server, or started one by one where each has a whole GPU.

A process that has touched CUDA cannot fork. On shares of GPUs, where ranks are small and many, the server leaves CUDA
alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from launch.cluster.local.cold import ProcessPool
from launch.cluster.local.gpus import LocalGpus
from launch.cluster.local.job import LocalJob
from launch.cluster.local.warm import PRELOAD, RankPool, rank_environment, rank_variables
from launch.cluster.this_machine import available_cores, free_port


class Ranks:
    """At most `slots` of them, each with its share of the cores.

    `log` is the server's, by default in the directory of the first run.
    """

    def __init__(
        self,
        slots: int,
        environment: Mapping[str, str],
        *,
        threads: int | None = None,
        preload: Sequence[str] = PRELOAD,
        python: str = sys.executable,
        log: Path | None = None,
        slots_per_gpu: int = 1,
    ) -> None:
        self.gpus = LocalGpus(environment, slots, slots_per_gpu)
        self.environment = rank_environment(environment, threads=threads or max(1, available_cores() // slots))
        self.preload = tuple(preload)
        self.python = python
        self.log = log
        self.pool: RankPool | ProcessPool | None = None

    def devices(self, ranks: int, running: Iterable[LocalJob]) -> tuple[str, ...] | None:
        """Return a GPU for each rank of a job, () where the machine has none; None while too few are free."""
        return self.gpus.choose([device for job in running for device in job.devices], ranks)

    def start(self, job: LocalJob) -> None:
        """Start all ranks of the job's attempt on its devices."""
        if self.pool is None:
            self.pool = self._open_pool(self.log or job.spec.run_dir / "rank_server.log")
        job.running = set(range(job.spec.world_size))
        shared = {
            **self.environment,
            **job.spec.environment,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "ESCALA_ATTEMPT": str(job.claim.attempt),
            **self.gpus.environment(job.devices),
        }
        directory = job.spec.directory or Path.cwd()
        for rank in sorted(job.running):
            environment = {**shared, **rank_variables(job.spec, rank)}
            self.pool.fork(f"{job.identity}/{rank}", job.spec.command, environment, directory, job.log_of(rank))

    def endings(self, seconds: float) -> list[tuple[str, int, int]]:
        """Wait up to `seconds` for ranks to end; return job, rank and exit code of those that did, [] for none.

        Raises UserError where their server ended, and every rank with it.
        """
        if self.pool is None:
            time.sleep(seconds)
            return []
        while events := self.pool.events(seconds):
            ended = [(*event["exited"].rpartition("/")[::2], event["code"]) for event in events if "exited" in event]
            if ended:
                return [(job, int(rank), int(code)) for job, rank, code in ended]
            seconds = 0.0
        return []

    def signal(self, job: LocalJob, number: int) -> None:
        """Send a signal to every rank of a job that runs."""
        for rank in job.running:
            assert self.pool is not None, "a job that runs was started through the pool"
            self.pool.signal(f"{job.identity}/{rank}", number)

    def close(self) -> None:
        """End the server, and with it every rank that still runs."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None
        self.gpus.close()

    def _open_pool(self, log: Path) -> RankPool | ProcessPool:
        self.gpus.start(log)
        if self.gpus and self.gpus.per_gpu == 1:
            return ProcessPool(self.python)
        return RankPool(self.environment, log, self.preload, self.python)
