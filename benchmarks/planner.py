"""The planner's memory against the peak of a real CPU run of the same model, in a process of its own each.

    python -m benchmarks.planner

Peak: the largest resident set minus what was resident before the model was built. Estimate: the plan's parts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CASES = [
    # d_model, layers, heads, vocabulary, context, micro-batch, ZeRO stage, recompute
    (512, 8, 8, 8192, 512, 8, 1, "none"),
    (512, 8, 8, 8192, 512, 8, 0, "none"),
    (768, 8, 12, 4096, 512, 4, 1, "none"),
    (512, 12, 8, 4096, 512, 8, 1, "full"),
    (1024, 6, 16, 4096, 256, 8, 1, "none"),
]


def peak_of_one(case: list) -> dict[str, object]:
    """Build and train one model for two steps in this process; return measured and planned bytes."""
    import torch

    from benchmarks.overhead import Batch
    from trainer.config.load import run_from_values
    from trainer.config.plan import make_plan
    from trainer.models.transformer import Transformer
    from trainer.parallel.engine import build_engine
    from trainer.parallel.start import start

    width, layers, heads, vocab, context, micro, zero, recompute = case
    config = run_from_values(
        {
            "model": {
                "d_model": width,
                "n_layers": layers,
                "n_heads": heads,
                "vocab_size": vocab,
                "context_length": context,
            },
            "data": {},
            "batch": {"tokens_per_step": micro * context, "micro_batch": micro},
            "steps": 2,
            "parallel": {"zero_stage": zero, "recompute": recompute},
            "precision": "fp32",
            "device": "cpu",
        },
        "benchmark",
    )
    plan = make_plan(config, world=1)
    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    _warm_up(torch)
    before = resident()
    with torch.device("meta"):
        model = Transformer(config.model)
    engine = build_engine(config, model, mesh, lr=1e-3, accumulation=1, device=device)
    batch = Batch(0, micro)
    tokens = torch.randint(vocab, (micro, context + 1))
    batch.inputs, batch.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    for _ in range(2):
        engine.train_step([batch], 1e-3)
    return {"case": case, "measured": peak() - before, "planned": plan.memory_bytes}


def _warm_up(torch: object) -> None:
    """Take the libraries' own buffers before measuring."""
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
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(peak_of_one(json.loads(arguments.case))))
        return
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.planner", "--case", json.dumps(case)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        row = json.loads(next(x for x in done.stdout.splitlines() if x.startswith('{"case"')))
        planned = row["planned"]["total"]
        print(f"{row['case']}: measured {row['measured'] / 2**20:.0f} MiB, planned {planned / 2**20:.0f} MiB "
              f"({planned / row['measured'] - 1:+.0%})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
