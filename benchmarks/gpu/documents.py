"""What document masks cost in time and memory, against none, at two context lengths."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from benchmarks.gpu.setting import Row, Setting

MODEL = {"d_model": 512, "n_layers": 8, "n_heads": 8, "vocab_size": 1024}
SMALL = {"d_model": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 256}
DOCUMENT = 256  # tokens of each


def measure(setting: Setting) -> list[Row]:
    """Train 16,384 tokens a step with and without documents, as `parallel.compile: auto` has it."""
    rows: list[Row] = []
    contexts = (64, 128) if setting.tiny else (2048, 8192)
    cases = {f"{n} {kind}": (n, kind) for n in contexts for kind in ("none", "masked")}
    for _, (context, kind) in setting.in_time(cases):
        setting.forget()
        tokens, length = (256, 16) if setting.tiny else (16384, DOCUMENT)
        shape = {**(SMALL if setting.tiny else MODEL), "context_length": context}
        config = setting.config(shape, tokens // context, precision="bf16", parallel={"engine": "fsdp"})
        built, batch = setting.engine(config), setting.batch(config)
        if kind == "masked":
            numbers = torch.arange(context, dtype=torch.int32) // length
            batch = replace(batch, documents=numbers.expand(batch.inputs.shape).contiguous())
        seconds = setting.seconds(partial(built.train_step, [batch], 1e-4), 1 if setting.tiny else 5)
        peak = setting.peak_bytes() / 1e9
        rows.append({"context": context, "documents": kind, "ms a step": 1000 * seconds, "peak, GB": peak})
        built.close()
        del built
    return rows
