"""Bytes of model state on each rank, counted tensor by tensor, against the formulas of ZeRO and tensor parallelism.

    python -m benchmarks.memory --size 1M

Counted are parameters, fp32 master copies and optimizer moments: everything that lives between steps. The formulas
are those of Rajbhandari et al. 2020 (section 5): with P parameters on a tensor rank and R replicas, fp32 needs 4 P
for the parameters (stage 3: / R), 8 P for the moments (from stage 1 on: / R), and then 4 P / R for the master copy.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.overhead import Batch, run_config
from trainer.models.build import build_model
from trainer.parallel.engine import Engine, build_engine
from trainer.parallel.start import start

LAYOUTS = [(4, 1), (4, 2), (4, 4), (2, 1), (2, 2), (1, 1)]


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


def rank_main(rank: int, world: int, tensor: int, a: argparse.Namespace, directory: str, results: Any) -> None:
    """Build, step once, count; for each ZeRO stage."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{directory}/store", world), rank=rank, world_size=world)
    for stage in (0, 1, 2, 3):
        config = run_config(a.size, tensor, stage, 1)
        mesh = start(config.parallel, torch.device("cpu"))
        model = build_model(config.model, 0)
        engine = build_engine(config, model, mesh, lr=1e-3, accumulation=1, device=torch.device("cpu"))
        local = sum(torch.Size(split.local_shape).numel() for split in engine.splits.values())
        engine.train_step([Batch(mesh.dp_rank, 1)], 1e-3)
        if rank == 0:
            measured, formula = state_bytes(engine), expected_bytes(local, mesh.replica_size, engine.zero_stage)
            results.put((world, tensor, stage, engine.zero_stage, measured, formula))
        engine.close()
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="1M")
    a = parser.parse_args()
    context = mp.get_context("spawn")
    for world, tensor in LAYOUTS:
        results = context.Queue()
        with tempfile.TemporaryDirectory() as directory:
            arguments = (world, tensor, a, directory, results)
            ranks = [context.Process(target=rank_main, args=(rank, *arguments)) for rank in range(world)]
            for process in ranks:
                process.start()
            for _ in range(4):
                w, t, stage, run_as, measured, formula = results.get(timeout=600)
                row = {"world": w, "tensor": t, "zero_stage": stage, "run_as": run_as, "measured": measured}
                print(json.dumps({**row, "formula": round(formula), "ratio": round(measured / formula, 3)}), flush=True)
            for process in ranks:
                process.join()


if __name__ == "__main__":
    main()
