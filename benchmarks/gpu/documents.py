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
    """Train 16,384 tokens a step with and without documents."""
    rows: list[Row] = []
    for context in (64, 128) if setting.tiny else (2048, 8192):
        tokens = 256 if setting.tiny else 16384
        shape = {**(SMALL if setting.tiny else MODEL), "context_length": context}
        for masked in (False, True):
            setting.forget()
            config = setting.config(shape, tokens // context, precision="bf16", parallel={"engine": "fsdp"})
            built, batch = setting.engine(config), setting.batch(config)
            if masked:
                numbers = torch.arange(context, dtype=torch.int32) // (DOCUMENT if not setting.tiny else 16)
                batch = replace(batch, documents=numbers.expand(batch.inputs.shape).contiguous())
            seconds = setting.seconds(partial(built.train_step, [batch], 1e-4), 1 if setting.tiny else 5)
            rows.append(
                {
                    "context": context, "documents": "masked" if masked else "none", "ms a step": 1000 * seconds,
                    "peak, GB": setting.peak_bytes() / 1e9,
                }
            )  # fmt: skip
            built.close()
            del built
    return rows
