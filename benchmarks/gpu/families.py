"""Tokens per second of every mixer by context length, in its plain form; `flash-linear-attention`'s where installed.

A model of 30M parameters trains so many tokens a step through our engine, not compiled. The peer is a layer of `fla`
at the width of ours, forward and backward, beside one of ours: kernels written for it against plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.setting import Row, Setting
from trainer.models.build import make_model
from trainer.models.interface import Context
from trainer.models.mixers.registry import MIXERS

TOKENS, CONTEXTS = 16384, (1024, 4096, 16384)
SLOWEST = 2.0  # seconds: longer contexts of a mixer whose step takes longer are left out
# What reads a sequence token by token comes last: the others are of more interest, and it is slow in plain torch.
LAST = ("lstm", "qrnn", "min_gru", "mlstm")
FLA = {"gated_delta": "GatedDeltaNet", "mamba2": "Mamba2"}
HEADS, WIDTH = 8, 512


def measure(setting: Setting) -> dict[str, list[Row]]:
    """Return a row for each mixer and context, and one for each layer that has a peer."""
    setting.forget()
    names = [*(name for name in MIXERS if name not in LAST), *LAST]
    contexts, tokens = ((32,), 64) if setting.tiny else (CONTEXTS, TOKENS)
    tables: dict[str, list[Row]] = {"families": []}
    if find_spec("fla") and setting.gpu:
        tables["layers"] = [layer(setting, name, n, tokens) for name in FLA for n in contexts]
    slow: set[str] = set()
    cases = {f"{name} at {context}": (name, context) for context in contexts for name in names}
    for _, (name, context) in setting.in_time(cases):
        if name in slow:
            continue
        row = model(setting, name, context, tokens)
        tables["families"].append(row)
        if float(row.get("ms a step") or 0) > 1000 * SLOWEST:
            slow.add(name)
    return tables


def model(setting: Setting, mixer: str, context: int, tokens: int) -> Row:
    """Train a model of a mixer, or say why it cannot be."""
    setting.forget()
    shape = {"size": "10k" if setting.tiny else "30M", "vocab_size": 256, "context_length": context, "mixer": mixer}
    try:
        precision = "bf16" if setting.gpu else "fp32"
        parallel = {"engine": "fsdp", "compile": False}
        config = setting.config(shape, tokens // context, precision=precision, parallel=parallel)
        built, batch = setting.engine(config), setting.batch(config)
        step = partial(built.train_step, [batch], 1e-4)
        seconds = setting.first(step)
        if seconds < 2 * SLOWEST and not setting.tiny:
            seconds = setting.seconds(step, 5)
        built.close()
    except Exception as error:
        return {"mixer": mixer, "context": context, "failed": f"{type(error).__name__}: {str(error)[:100]}"}
    return {
        "mixer": mixer, "context": context, "tokens/s": tokens / seconds, "ms a step": 1000 * seconds,
        "peak, GB": setting.peak_bytes() / 1e9,
    }  # fmt: skip


def layer(setting: Setting, mixer: str, context: int, tokens: int) -> Row:
    """Return the milliseconds of one layer, ours and theirs, forward and backward in bf16."""
    shape = {"d_model": WIDTH, "n_layers": 1, "n_heads": HEADS, "vocab_size": 256, "context_length": context}
    config = setting.config({**shape, "mixer": mixer}, tokens // context)
    whole: Any = make_model(config.model)
    whole.reset_parameters(0)
    ours = whole.blocks[0].mixer.to(setting.device, torch.bfloat16)
    places = Context(torch.arange(context, device=setting.device))
    row: Row = {
        "layer": mixer,
        "context": context,
        "ours, ms": timed(setting, lambda x: ours(x, places), context, tokens),
    }
    try:
        theirs = peer(getattr(import_module("fla.layers"), FLA[mixer]), mixer).to(setting.device, torch.bfloat16)
        row["fla, ms"] = timed(setting, lambda x: theirs(x)[0], context, tokens)
    except Exception as error:  # of another version of fla, most likely
        row["fla, ms"] = f"{type(error).__name__}: {str(error)[:100]}"
    return row


def peer(kind: Callable[..., nn.Module], mixer: str) -> nn.Module:
    """Return their layer at the width, heads and state of ours."""
    if mixer == "mamba2":
        return kind(
            hidden_size=WIDTH, num_heads=HEADS, head_dim=2 * WIDTH // HEADS, state_size=64, expand=2, n_groups=1
        )
    return kind(hidden_size=WIDTH, num_heads=HEADS, head_dim=WIDTH // HEADS, expand_v=1)


def timed(setting: Setting, module: Callable[[Tensor], Tensor], context: int, tokens: int) -> float:
    """Return the milliseconds of a forward and a backward pass."""
    x = torch.randn(tokens // context, context, WIDTH, device=setting.device, dtype=torch.bfloat16, requires_grad=True)
    return 1000 * setting.seconds(lambda: module(x).float().sum().backward(), 5)
