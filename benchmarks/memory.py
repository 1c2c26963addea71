"""Bytes of model state on each rank, counted tensor by tensor, against the formulas of ZeRO and tensor parallelism.

    python -m benchmarks.memory --size 4M

Counted are parameters, fp32 master copies and optimizer moments: everything that lives between steps. The formulas
are those of Rajbhandari et al. 2020 (section 5): with P parameters on a tensor rank and R replicas, fp32 needs 4 P
for the parameters (stage 3: / R), 8 P for the moments (from stage 1 on: / R), and then 4 P / R for the master copy.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.overhead import Batch, run_config
from trainer.models.build import build_model
from trainer.parallel.engine import Engine, build_engine
from trainer.parallel.start import start

LAYOUTS = [(1, 1), (2, 2), (4, 4), (2, 1), (4, 1), (4, 2)]


def state_bytes(engine: Engine) -> int:
    """Return the bytes of all distinct storages behind parameters, master copies and moments."""
    tensors = [getattr(p, "ds_tensor", p).data for p in engine.module.parameters()]
    optimizer = engine.ds.optimizer
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        tensors += getattr(optimizer, name, [])
    for state in engine.ds.basic_optimizer.state.values():
        tensors += [value for value in state.values() if torch.is_tensor(value)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def expected_bytes(local: int, replicas: int, stage: int) -> float:
    """Return the formula's bytes for `local` parameters of a tensor rank."""
    if stage == 0:
        return 12 * local
    return 4 * local / (replicas if stage == 3 else 1) + 12 * local / replicas


def step_peak(build: Callable[[], Engine], step: Callable[[Engine], object]) -> tuple[Engine, int]:
    """Return the most bytes that were live at a time inside a second step, counted at torch's allocator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        engine = build()
        step(engine)
        with torch.profiler.record_function("measured step"):
            step(engine)
    events = profile.profiler.kineto_results.events()
    (measured,) = (event for event in events if event.name() == "measured step")
    live = peak = 0
    for at, change in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        live += change
        if measured.start_ns() <= at <= measured.end_ns():
            peak = max(peak, live)
    return engine, peak


def rank_main(rank: int, world: int, tensor: int, stage: int, a: argparse.Namespace, directory: str, out: Any) -> None:
    """Build, step twice, count. A process for each case: nothing of a former engine is freed while this one counts."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{directory}/store", world), rank=rank, world_size=world)
    device = torch.device("cpu")
    config = run_config(a.size, tensor, stage, 1)
    mesh = start(config.parallel, device)
    batch = Batch(mesh.dp_rank, 1)
    engine, peak = step_peak(
        lambda: build_engine(config, build_model(config.model, 0), mesh, lr=1e-3, accumulation=1, device=device),
        lambda engine: engine.train_step([batch], 1e-3),
    )
    if rank == 0:
        local = sum(torch.Size(split.local_shape).numel() for split in engine.splits.values())
        states, formula = state_bytes(engine), round(expected_bytes(local, mesh.replica_size, stage))
        row = {"world": world, "tensor": tensor, "zero_stage": stage, "states": states, "formula": formula}
        out.put({**row, "ratio": round(states / formula, 3), "step_peak": peak, "beyond_states": peak - states,
                 "gradients": 4 * local})  # fmt: skip
    engine.close()
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="4M")
    a = parser.parse_args()
    context = mp.get_context("spawn")
    cases = [(world, tensor, stage) for world, tensor in LAYOUTS for stage in range(4 if world > tensor else 1)]
    for world, tensor, stage in cases:
        out = context.Queue()
        with tempfile.TemporaryDirectory() as directory:
            arguments = (world, tensor, stage, a, directory, out)
            ranks = [context.Process(target=rank_main, args=(rank, *arguments)) for rank in range(world)]
            for process in ranks:
                process.start()
            print(json.dumps(out.get(timeout=600)), flush=True)
            for process in ranks:
                process.join()


if __name__ == "__main__":
    main()
