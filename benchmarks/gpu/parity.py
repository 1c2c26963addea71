"""The same run on the GPU and on the processor, and in bf16; a checkpoint that goes from one to the other."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu.setting import Row, Setting
from trainer.checkpoint.load import load
from trainer.checkpoint.manifest import read_manifest
from trainer.checkpoint.save import save

STEPS, FURTHER = 20, 5
SMALL = {"d_model": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 256, "context_length": 32}
MODEL = {"d_model": 128, "n_layers": 4, "n_heads": 4, "vocab_size": 512, "context_length": 128}


def curve(
    setting: Setting, precision: str, engine: str, source: Path | None = None, target: Path | None = None
) -> list[float]:
    """Return the losses of 20 steps (with a source: of those after it); save to the target where there is one."""
    config = setting.config(
        SMALL if setting.tiny else MODEL, 8, precision=precision, parallel={"engine": engine, "zero_stage": 1}
    )
    built = setting.engine(config)
    first = 0
    if source is not None:
        manifest = read_manifest(source)
        load(built, source, manifest)
        first = manifest.step
    steps = range(first, first + (FURTHER if source else STEPS))
    losses = [built.train_step([setting.batch(config, step)], 1e-3).loss for step in steps]
    if target is not None:
        save(built, target, steps.stop, {})
    built.close()
    return losses


def difference(a: list[float], b: list[float]) -> float:
    """Return the largest difference of a step."""
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def measure(setting: Setting) -> list[Row]:
    """Compare losses in nats; 20 steps of a model of a million parameters, 5 after the checkpoint."""
    processor = replace(setting, device=torch.device("cpu"))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for engine in setting.engines[:1] if setting.tiny else setting.engines:
            here = curve(setting, "fp32", engine, target=root / f"device-{engine}")
            there = curve(processor, "fp32", "fsdp", target=root / f"cpu-{engine}")
            narrow = curve(setting, "bf16", engine)
            saved = root / f"device-{engine}" / f"step_{STEPS:09d}"
            on = curve(setting, "fp32", engine, source=saved)
            moved = curve(processor, "fp32", "fsdp", source=saved)
            differences = {
                "fp32: device, processor": difference(here, there),
                "device: bf16, fp32": difference(narrow, here),
                "saved on the device: resumed there, on the processor": difference(on, moved),
            }
            rows += [{"engine": engine, "compared": what, "nats": value} for what, value in differences.items()]
    return rows
