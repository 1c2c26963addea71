"""A rank for tests: all-reduce, then do what the first argument says."""

import os
import signal
import sys
import time

import torch.distributed as dist

rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
what = sys.argv[1]
stop: list[int] = []
if what == "save":
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda n, _: stop.append(n))
if world > 1 and what != "alone":
    import torch

    dist.init_process_group("gloo")
    total = torch.tensor([float(rank)])
    dist.all_reduce(total)
    print("sum", int(total), flush=True)
if what == "fail" and rank == int(sys.argv[2]):
    raise RuntimeError(f"rank {rank} was told to fail")
if what == "die" and rank == int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGSEGV)
if what == "exit":
    sys.exit(int(sys.argv[2]))
if what == "reduce":  # for ever, as training does
    print("ready", os.getpid(), flush=True)
    while True:
        dist.all_reduce(total)
if what in ("fail", "die", "sleep", "save"):
    print("ready", os.getpid(), flush=True)
    for _ in range(3000):
        time.sleep(0.02)
        if stop:
            print("saved", flush=True)
            sys.exit(75)
if dist.is_initialized():  # its threads must not be alive when the interpreter ends: that aborts, now and then
    dist.destroy_process_group()
