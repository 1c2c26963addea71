"""Tokens per second and MFU at GPT-2's 124M: ours plain, compiled and through the engines, against two peers.

All contenders take turns in this process. The peers: GPT-2 in the style of nanoGPT (`benchmarks/step_time.py`),
compiled, and `transformers`' GPT-2 where it is installed; both with autocast to bf16 and a fused AdamW.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.setting import Row, Setting
from benchmarks.step_time import Peer
from trainer.config.run import RunConfig
from trainer.data.read.batches import MicroBatch
from trainer.engine.peak import peak_flops
from trainer.plan.counting import count_flops

LARGE = {"d_model": 768, "n_layers": 12, "n_heads": 12, "vocab_size": 50304, "context_length": 1024}
SMALL = {"d_model": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 256, "context_length": 64}
GPT2 = {"position": "learned", "norm": "layernorm", "mlp": "gelu", "bias": True}
Step = Callable[[], object]


def plain(setting: Setting, model: nn.Module, batch: MicroBatch, loss_of: Callable[[Any, Any], Any]) -> Step:
    """Return one step of a plain loop in bf16 autocast, clipped, on a batch that is on the device."""
    model = model.to(setting.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    inputs, targets = batch.inputs.to(setting.device), batch.targets.to(setting.device)

    def step() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16):
            loss = loss_of(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def nanogpt(setting: Setting, config: RunConfig, batch: MicroBatch) -> Step:
    """Return a step of the nanoGPT-style peer, compiled on a GPU as nanoGPT's is by default."""
    model = Peer(config.model)  # type: ignore[arg-type]
    compiled = model if setting.tiny else torch.compile(model)
    return plain(setting, model, batch, lambda inputs, targets: compiled(inputs, targets))


def hugging_face(setting: Setting, config: RunConfig, batch: MicroBatch) -> Step:
    """Return a step of `transformers`' GPT-2 with scaled_dot_product_attention."""
    from transformers import GPT2Config, GPT2LMHeadModel

    m: Any = config.model
    shape = GPT2Config(
        vocab_size=m.vocab_size, n_positions=m.context_length, n_embd=m.d_model, n_layer=m.n_layers, n_head=m.n_heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa",
    )  # fmt: skip
    model = GPT2LMHeadModel(shape)

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(inputs).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return plain(setting, model, batch, loss_of)


def engine(setting: Setting, shape: dict[str, Any], sequences: int, name: str, *, compiled: bool) -> Step:
    """Return a step of ours, data copied from pinned memory, the loss read a step late as a run does on a GPU."""
    parallel = {"engine": name, "zero_stage": 1, "compile": compiled}
    config = setting.config({**shape, **GPT2}, sequences, precision="bf16", parallel=parallel)
    built, batch = setting.engine(config), setting.batch(config)
    launched = [built.launch_step([batch], 1e-4)]

    def step() -> None:
        launched.append(built.launch_step([batch], 1e-4))
        launched.pop(0).read()

    return step


def contenders(setting: Setting, shape: dict[str, Any], sequences: int) -> dict[str, Step]:
    """Return a step of each."""
    config = setting.config({**shape, **GPT2}, sequences)
    batch = setting.batch(config)
    found = {"nanoGPT style, compiled": nanogpt(setting, config, batch)}
    if find_spec("transformers"):
        found["transformers, GPT-2"] = hugging_face(setting, config, batch)
    for name in setting.engines[:1] if setting.tiny else setting.engines:
        found[f"ours, {name}"] = engine(setting, shape, sequences, name, compiled=False)
        if not setting.tiny:
            found[f"ours, {name}, compiled"] = engine(setting, shape, sequences, name, compiled=True)
    return found


def measure(setting: Setting) -> list[Row]:
    """Return the median of the rounds for each contender; the first step, with compilation, apart."""
    shape, sequences = (SMALL, 2) if setting.tiny else (LARGE, 16)
    rounds, inner = (1, 1) if setting.tiny else (3, 10)
    config = setting.config({**shape, **GPT2}, sequences)
    steps, first = contenders(setting, shape, sequences), {}
    for name, step in steps.items():
        began = time.perf_counter()
        step()
        setting.wait()
        first[name] = time.perf_counter() - began
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(setting.seconds(step, inner))
    tokens, peak = config.batch.tokens_per_step, peak_flops(setting.device)
    flops = count_flops(config.model).total * tokens
    median = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(value for name, value in median.items() if not name.startswith("ours"))
    return [
        {
            "contender": name, "tokens/s": tokens / value, "ms a step": 1000 * value, "x best peer": best / value,
            "MFU": None if peak is None else flops / value / peak, "first step, s": first[name],
        }
        for name, value in median.items()
    ]  # fmt: skip
