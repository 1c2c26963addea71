"""Memory of a rank against its formula: model states tensor by tensor, the peak of a whole step as the kernel saw it.

    python -m benchmarks.memory --size 20M

States are parameters, fp32 master copies and optimizer moments: what lives between steps. With P parameters on a tensor
rank and R replicas, fp32 needs 4 P for the parameters (stage 3: / R), 8 P for the moments (from stage 1 on: / R), and
then 4 P / R for the master copy (Rajbhandari et al. 2020, section 5). The peak is what the planner predicts (`escala
plan`): states, gradients, activations and buffers, each where they meet.

The peak is the largest resident memory during a step, less that of the same process before the model was built, after
one step of a tiny model. Blocks of 64 KiB and more are mapped one by one and go back to the kernel when they are freed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.overhead import TOKENS, random_batch, run_config
from benchmarks.ranks import measured_by_ranks
from trainer.engine.build import build_engine
from trainer.engine.deepspeed.sharded import DeepSpeedSharded
from trainer.engine.engine import Engine
from trainer.models.build import make_model
from trainer.parallel.mesh import Mesh
from trainer.parallel.start import start
from trainer.plan.memory import Memory, rank_memory

LAYOUTS = [(1, 1), (2, 2), (4, 4), (2, 1), (4, 1), (4, 2)]
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000", "MALLOC_TRIM_THRESHOLD_": "0"}


def state_bytes(engine: Engine) -> int:
    """Return the bytes of all distinct storages behind parameters, master copies and moments."""
    tensors = [getattr(p, "ds_tensor", p).data for p in engine.module.parameters()]
    assert isinstance(engine.sharded, DeepSpeedSharded)
    optimizer = engine.sharded.ds.optimizer
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        tensors += getattr(optimizer, name, [])
    for state in engine.sharded.ds.basic_optimizer.state.values():
        tensors += [value for value in state.values() if torch.is_tensor(value)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def expected_states(local: int, replicas: int, stage: int) -> float:
    """Return the formula's bytes for `local` parameters of a tensor rank."""
    if stage == 0:
        return 12 * local
    return 4 * local / (replicas if stage == 3 else 1) + 12 * local / replicas


def expected_peak(config: Any, mesh: Mesh, stage: int, sequences: int) -> Memory:
    """Return what the planner says of this rank."""
    return rank_memory(
        config.model,
        config.parallel.model_copy(update={"zero_stage": stage}),
        data_parallel=mesh.dp_size,
        micro_batch=sequences,
        bytes_per_value=4,
        gpu=False,
        accumulates=stage > 1,
    )


def kernel_says(what: str) -> int:
    """Return VmRSS (resident memory) or VmHWM (the most since `forget_peak`) of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {what}")


def forget_peak() -> None:
    """Have the kernel count VmHWM anew from now."""
    Path("/proc/self/clear_refs").write_text("5")


def build(config: Any, mesh: Mesh) -> Engine:
    """Return an engine whose model is made as in a run: each rank its own share."""
    with torch.device("meta"):
        model = make_model(config.model)
    return build_engine(config, model, mesh, lr=1e-3, accumulation=1, device=torch.device("cpu"))


def measure(tensor: int, stage: int, a: argparse.Namespace) -> dict[str, Any]:
    """Build, step twice, count. Processes for each case: nothing of a former engine is freed while this one counts."""
    config, tiny = (run_config(size, tensor, stage, a.sequences) for size in (a.size, "100k"))
    mesh = start(config.parallel, torch.device("cpu"))
    batch = random_batch(mesh.dp_rank, a.sequences)
    small = build(tiny, mesh)
    small.train_step([batch], 1e-3)
    small.close()
    del small
    gc.collect()
    before = kernel_says("VmRSS")
    engine = build(config, mesh)
    engine.train_step([batch], 1e-3)
    gc.collect()
    dist.barrier()
    forget_peak()
    engine.train_step([batch], 1e-3)
    peak = kernel_says("VmHWM") - before
    local = sum(torch.Size(split.local_shape).numel() for split in engine.splits.values())
    formula = expected_peak(config, mesh, engine.zero_stage, a.sequences)
    states = state_bytes(engine)
    row = {"world": dist.get_world_size(), "tensor": tensor, "zero_stage": stage, "states": states,
           "states_ratio": round(states / expected_states(local, mesh.replica_size, engine.zero_stage), 3),
           "peak": peak, "formula": formula.total, "peak_ratio": round(peak / formula.total, 3)}  # fmt: skip
    engine.close()
    return {**row, "parts": formula.by_part()} if a.parts else row


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="20M")
    parser.add_argument("--sequences", type=int, default=1, help=f"of one rank, {TOKENS} tokens each")
    parser.add_argument("--parts", action="store_true", help="print the parts of the formula too")
    a = parser.parse_args()
    os.environ.update(MALLOC)  # read by the ranks when they start
    cases = [(world, tensor, stage) for world, tensor in LAYOUTS for stage in range(4 if world > tensor else 1)]
    for world, tensor, stage in cases:
        print(json.dumps(measured_by_ranks(measure, world, tensor, stage, a)), flush=True)


if __name__ == "__main__":
    main()
