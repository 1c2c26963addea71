"""A rank that fails as its first argument says. Every rank waits in an all-reduce for the one that is to fail."""

import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
how, victim = sys.argv[1], int(sys.argv[2])
here = Path(sys.argv[3])  # a directory for what is needed

if how == "import" and rank == victim:
    import a_module_that_is_not_installed  # noqa: F401

import datetime  # noqa: E402

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from trainer.contract.errors import UserError  # noqa: E402
from trainer.guard.position import record_collectives, write_position  # noqa: E402
from trainer.node.stacks import also_on_signal  # noqa: E402

logs = Path(os.readlink("/proc/self/fd/1")).parent  # where its log is
record_collectives()
also_on_signal(lambda: write_position(logs, rank, "asked"))
seconds = 8 if how == "timeout" else 60  # longer than a busy machine keeps a rank waiting
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=seconds))
total = torch.ones(1)


def fail() -> None:
    if how == "raise":
        raise RuntimeError(f"rank {rank} was told to fail [/x] {os.environ.get('PLANTED_API_KEY')}")
    if how in ("kill", "oom"):
        if how == "oom":  # the test has put this machine's ranks into a group with little memory
            blocks = []
            while True:
                blocks.append(bytearray(b"x" * 10_000_000))
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
        bytearray(1 << 40)
    if how == "allocator":
        torch.empty(1 << 50)
    if how == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        (here / "checkpoint").write_bytes(bytes(1 << 20))
    if how == "data":
        (here / "no-such-shard.bin").read_bytes()
    if how == "permission":
        raise PermissionError(13, "Permission denied", "/data/set")
    if how == "ecc":
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    if how == "port":
        other = socket.create_server(("127.0.0.1", 0))
        socket.create_server(("127.0.0.1", other.getsockname()[1]))
    if how == "user":
        print(f"error: {UserError('tensor 3 does not divide 4 heads')}", file=sys.stderr)
        sys.exit(2)
    if how == "diverged":
        print("error: the loss is not a number at step 7", file=sys.stderr)
        sys.exit(76)
    if how == "silent":
        sys.exit(3)
    if how == "watchdog":
        from trainer.guard.watchdog import Watchdog

        Watchdog(1.0).beat()
    if how == "stall":
        from trainer.data.read import batches
        from trainer.guard.watchdog import Watchdog

        Watchdog(1.0).beat()
        batches.require_samples = lambda *_: time.sleep(3600)  # a disk that does not answer
        batches.Batches(None, context_length=1, sequences_per_step=2, micro_batch=1, seed=0)
    time.sleep(3600)  # a hang


for step in range(10**9):
    try:
        dist.all_reduce(total)
    except RuntimeError:
        write_position(logs, rank, "it ended with an error")
        raise
    if step == 3:
        print("ready", os.getpid(), flush=True)
    if step == 5 and rank == victim:
        fail()
    time.sleep(0.01)
