"""A pool of ranks for distributed tests: torch and DeepSpeed are imported once, ranks are forked and reused.

A job is a module-level function; each of `world` ranks runs it inside a fresh gloo world and returns its result.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PRELOAD = [
    "torch",
    "torch._dynamo",
    "deepspeed",
    "deepspeed.runtime.zero.stage3",
    "trainer.parallel.start",
    "trainer.engine.build",
    "tests.dist.pool",
]
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "MASTER_ADDR": "localhost",
    "DS_SKIP_CUDA_CHECK": "1",
    "DEEPSPEED_LOG_LEVEL": "warning",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # else each rank starts compiling processes, which import torch
    "TORCH_EXTENSIONS_DIR": tempfile.mkdtemp(prefix="escala-extensions-"),
}


# Then new ranks take over, forked in a moment. Each engine leaves threads of its groups behind, which wake up a hundred
# times a second: ranks of a whole session took a third of a core from all tests after theirs.
JOBS = 10


class RankError(Exception):
    """A rank raised; the text holds its traceback."""


class RankPool:
    """Ranks that live until the pool is closed."""

    def __init__(self, size: int) -> None:
        os.environ.update(ENVIRONMENT)
        self.size = size
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)
        self.workers: list[Any] = []
        self.pipes: list[Connection] = []
        self.jobs = 0

    def run(self, world: int, job: Callable[..., Any], *arguments: Any, timeout: float = 300.0) -> list[Any]:
        """Run the job on ranks 0..world-1 and return their results in order. Raises RankError with all tracebacks."""
        assert world <= self.size
        if self.jobs == JOBS:
            self.close()
        if not self.workers:
            self._start()
        self.jobs += 1
        with tempfile.TemporaryDirectory() as directory:
            for rank in range(world):
                self.pipes[rank].send((job, rank, world, str(Path(directory) / "store"), arguments))
            answers = []
            for rank in range(world):
                if not self.pipes[rank].poll(timeout):
                    self.close()
                    raise RankError(f"rank {rank} of {world} did not answer in {timeout} s")
                try:
                    answers.append(self.pipes[rank].recv())
                except EOFError:
                    self.close()
                    raise RankError(f"rank {rank} of {world} died") from None
        failures = [f"rank {rank}:\n{text}" for rank, (ok, text) in enumerate(answers) if not ok]
        if failures:
            self.close()
            raise RankError("\n".join(failures))
        return [value for _, value in answers]

    def _start(self) -> None:
        for _ in range(self.size):
            mine, theirs = self.context.Pipe()
            worker = self.context.Process(target=serve, args=(theirs,), daemon=True)
            worker.start()
            theirs.close()
            self.workers.append(worker)
            self.pipes.append(mine)

    def close(self) -> None:
        """End the ranks; the next job starts new ones."""
        for worker in self.workers:
            worker.kill()
            worker.join()
        self.workers, self.pipes, self.jobs = [], [], 0


def serve(pipe: Connection) -> None:
    """Run jobs until the pipe closes: the life of one rank."""
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            job, rank, world, store, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, in_world(rank, world, store, job, arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


def in_world(rank: int, world: int, store: str, job: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Run one job as a rank of a world of its own."""
    from datetime import timedelta

    import torch.distributed as dist

    _forget_former_engines()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0")
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, world), rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        return job(*arguments)
    finally:
        dist.destroy_process_group()


def _forget_former_engines() -> None:
    """Undo what DeepSpeed leaves in a process: a former world's groups, and ZeRO 3's numbers and linear function."""
    import torch
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
    from deepspeed.runtime.zero.partition_parameters import Init, InsertPostInitMethodToModuleSubClasses
    from deepspeed.utils import groups
    from torch.distributed import ProcessGroup

    for name, value in list(vars(groups).items()):  # of a world that is gone
        if isinstance(value, ProcessGroup):
            setattr(groups, name, None)
    torch._dynamo.reset()  # compiled code of a former model
    groups.mpu = None  # the groups of a former engine with tensor ranks, which one without would ask
    Init.param_id = 0
    DeepSpeedZeRoOffload._register_deepspeed_module.__defaults__[0][0] = 0
    torch.nn.functional.linear = getattr(
        InsertPostInitMethodToModuleSubClasses, "linear_bk", torch.nn.functional.linear
    )
