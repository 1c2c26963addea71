"""The planner's memory against the peak of a real CPU run of the same model, in a process of its own each.

    python -m benchmarks.planned_memory

Two peaks from the building of the model to the end of the second step: the bytes of all tensors that live at a time, by
PyTorch's profiler, and how much the resident set grew, which also holds what malloc keeps of freed blocks.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

CASES: list[dict[str, object]] = [
    {"d_model": 512, "n_layers": 8, "n_heads": 8, "vocab_size": 8192, "context_length": 512, "micro_batch": 8},
    {"d_model": 256, "n_layers": 8, "n_heads": 4, "vocab_size": 8192, "context_length": 256, "micro_batch": 16},
    {"d_model": 256, "n_layers": 8, "n_heads": 4, "vocab_size": 8192, "context_length": 256, "micro_batch": 16,
     "mlp": "gelu_tanh", "norm": "layernorm", "position": "learned", "bias": True},
    {"d_model": 256, "n_layers": 8, "n_heads": 8, "vocab_size": 8192, "context_length": 256, "micro_batch": 16,
     "n_kv_heads": 2, "qk_norm": True},
    {"d_model": 256, "n_layers": 8, "n_heads": 4, "vocab_size": 32768, "context_length": 256, "micro_batch": 8,
     "accumulation": 2},
    {"d_model": 512, "n_layers": 12, "n_heads": 8, "vocab_size": 4096, "context_length": 512, "micro_batch": 8,
     "recompute": "full"},
    {"d_model": 256, "n_layers": 8, "n_heads": 4, "vocab_size": 4096, "context_length": 256, "micro_batch": 16,
     "recompute": "selective"},
    {"d_model": 1024, "n_layers": 6, "n_heads": 16, "vocab_size": 4096, "context_length": 256, "micro_batch": 2},
]  # fmt: skip


def peak_of_one(case: dict, *, profiled: bool) -> dict[str, int]:
    """Build and train one model for two steps in this process; return measured and planned bytes."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.overhead import random_batch
    from trainer.config.load import run_from_values
    from trainer.engine.build import build_engine
    from trainer.models.build import make_model
    from trainer.parallel.start import start
    from trainer.plan.plan import make_plan

    shape = {**case}
    micro, accumulation = shape.pop("micro_batch"), shape.pop("accumulation", 1)
    recompute, context = shape.pop("recompute", "none"), shape["context_length"]
    values = {
        "model": shape,
        "data": {},
        "batch": {"tokens_per_step": micro * context * accumulation, "micro_batch": micro},
        "steps": 2,
        "parallel": {"recompute": recompute},
        "precision": "fp32",
        "device": "cpu",
    }
    config = run_from_values(values, "benchmark")
    plan = make_plan(config, world=1)
    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    _warm_up(torch)
    recording = profile(activities=[ProfilerActivity.CPU], profile_memory=True) if profiled else nullcontext()
    before = resident()
    with recording:
        with torch.device("meta"):
            model = make_model(config.model)
        engine = build_engine(config, model, mesh, lr=1e-3, accumulation=accumulation, device=device)
        assert config.model.vocab_size is not None
        batch = random_batch(0, micro, context, config.model.vocab_size)
        for _ in range(2):
            engine.train_step([batch] * accumulation, 1e-3)
    measured = most_allocated(recording) if profiled else peak() - before
    return {"measured": measured, "before": before, "planned": plan.memory_bytes["total"]}


def most_allocated(recording: object) -> int:
    """Return the most bytes of tensors that lived at a time while it was recorded."""
    events = recording.profiler.kineto_results.events()  # type: ignore[attr-defined]
    changes: list[tuple[int, int]] = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    return max(itertools.accumulate(number for _, number in changes))


def _warm_up(torch: object) -> None:
    """Take the libraries' own buffers before measuring, and import what a first step of ZeRO would import."""
    importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    a = torch.randn(256, 256, requires_grad=True)  # type: ignore[attr-defined]
    (a @ a).sum().backward()


def resident() -> int:
    """Return the resident bytes of this process, and start its peak anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Return the largest resident bytes since `resident`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", help="used inside")
    parser.add_argument("--profiled", action="store_true", help="used inside")
    arguments = parser.parse_args()
    if arguments.case:
        print("row " + json.dumps(peak_of_one(json.loads(arguments.case), profiled=arguments.profiled)))
        return
    for case in CASES:
        tensors, process = run_apart(case, "--profiled"), run_apart(case)
        planned, allocated, grown = tensors["planned"], tensors["measured"], process["measured"]
        print(f"{case}: planned {planned / 2**20:.0f} MiB; tensors {allocated / 2**20:.0f} MiB "
              f"({planned / allocated - 1:+.1%}), resident {grown / 2**20:.0f} MiB ({planned / grown - 1:+.1%}) "
              f"beside {process['before'] / 2**20:.0f} MiB of libraries", flush=True)  # fmt: skip


def run_apart(case: dict, *more: str) -> dict:
    """Return the row of one case, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.planned_memory", "--case", json.dumps(case), *more]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    row: dict = json.loads(next(x for x in done.stdout.splitlines() if x.startswith("row "))[4:])
    return row


if __name__ == "__main__":
    main()
