"""Tokens per second and MFU of ours, plain, compiled and in fp8, against two peers: at GPT-2's 124M, and at 1B.

At 124M all contenders take turns in this process; models of 1B follow each other, for each fills the GPU. The peers:
GPT-2 in the style of nanoGPT (`benchmarks/step_time.py`), compiled, and `transformers`' GPT-2 where it is installed,
both with autocast to bf16 and a fused AdamW.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
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

GPT2 = {"position": "learned", "norm": "layernorm", "mlp": "gelu", "bias": True}
LARGE = {"d_model": 768, "n_layers": 12, "n_heads": 12, "vocab_size": 50304, "context_length": 1024, **GPT2}
LARGER = {"d_model": 2048, "n_layers": 18, "n_heads": 16, "vocab_size": 50304, "context_length": 2048, **GPT2}
SMALL = {"d_model": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 256, "context_length": 64, **GPT2}
Step = Callable[[], object]


@dataclass(frozen=True)
class Way:
    """How one of ours trains: `compile` as in `parallel.compile`."""

    engine: str
    compile: str | bool = False
    precision: str = "bf16"

    def __str__(self) -> str:
        compiled = f", compiled {self.compile}" if self.compile else ""
        return f"ours, {self.engine}{compiled}{', fp8' if self.precision == 'fp8' else ''}"


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


def nanogpt(setting: Setting, config: RunConfig) -> Step:
    """Return a step of the nanoGPT-style peer, compiled on a GPU as nanoGPT's is by default."""
    model = Peer(config.model)  # type: ignore[arg-type]
    compiled = torch.compile(model) if setting.gpu else model
    return plain(setting, model, setting.batch(config), lambda inputs, targets: compiled(inputs, targets))


def hugging_face(setting: Setting, config: RunConfig) -> Step:
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

    return plain(setting, model, setting.batch(config), loss_of)


def ours(setting: Setting, shape: dict[str, Any], sequences: int, way: Way) -> Step:
    """Return a step of ours, data copied from pinned memory, the loss read a step late as a run does on a GPU."""
    parallel = {"engine": way.engine, "zero_stage": 1, "compile": way.compile}
    config = setting.config(shape, sequences, precision=way.precision, parallel=parallel)
    built, batch = setting.engine(config), setting.batch(config)
    launched = [built.launch_step([batch], 1e-4)]

    def step() -> None:
        launched.append(built.launch_step([batch], 1e-4))
        launched.pop(0).read()

    return step


def contenders(
    setting: Setting, shape: dict[str, Any], sequences: int, ways: list[Way]
) -> dict[str, Callable[[], Step]]:
    """Return what makes a step of each, the peers first."""
    config = setting.config(shape, sequences)
    found: dict[str, Callable[[], Step]] = {"nanoGPT style, compiled": partial(nanogpt, setting, config)}
    if find_spec("transformers"):
        found["transformers, GPT-2"] = partial(hugging_face, setting, config)
    return found | {str(way): partial(ours, setting, shape, sequences, way) for way in ways}


def ways_of(setting: Setting) -> list[Way]:
    """Return how ours are measured, most valuable first."""
    engines = setting.engines
    if not setting.gpu:
        return [Way(engines[0])]
    first = [Way(engine, compile) for engine in engines for compile in ("blocks", False)]
    fp8 = [Way(engines[0], "blocks", "fp8")] if torch.cuda.get_device_capability(setting.device) >= (9, 0) else []
    return [*first, *(Way(engines[-1], compile) for compile in ("model", "graphs")), *fp8]


def made(setting: Setting, makers: Mapping[str, Callable[[], Step]]) -> Iterator[tuple[str, Step | str, float]]:
    """Yield each step with the seconds of its first call, or the error that it ended with: the others go on."""
    for name, make in setting.in_time(makers):
        try:
            step = make()
            seconds = setting.first(step)
        except Exception as error:
            yield name, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", 0.0
            continue
        yield name, step, seconds
        del step  # a model, which whoever took it may be done with


def measure(setting: Setting) -> list[Row]:
    """Return the median of the rounds for each contender; the first step, with compilation, apart."""
    shape, sequences = (SMALL, 2) if setting.tiny else (LARGE, 16)
    rounds, inner = (1, 1) if setting.tiny else (3, 10)
    steps: dict[str, Step] = {}
    first: dict[str, float] = {}
    failed: list[Row] = []
    for name, step, seconds in made(setting, contenders(setting, shape, sequences, ways_of(setting))):
        if isinstance(step, str):
            failed.append({"contender": name, "failed": step})
        else:
            steps[name], first[name] = step, seconds
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(setting.seconds(step, inner))
    median = {name: statistics.median(values) for name, values in times.items()}
    return [*rows(setting, setting.config(shape, sequences), median, first), *failed]


def measure_larger(setting: Setting) -> list[Row]:
    """Return the same of models of a billion parameters, one after the other."""
    shape, sequences = (SMALL, 2) if setting.tiny else (LARGER, 8)
    engine = setting.engines[0]
    ways = [Way(engine, "blocks"), Way(engine, "blocks", "fp8"), Way(engine)] if setting.gpu else [Way(engine)]
    makers = contenders(setting, shape, sequences, ways)
    makers.pop("transformers, GPT-2", None)
    median: dict[str, float] = {}
    first: dict[str, float] = {}
    failed: list[Row] = []
    for name, step, seconds in made(setting, dict(sorted(makers.items(), key=lambda item: "ours" not in item[0]))):
        if isinstance(step, str):
            failed.append({"contender": name, "failed": step})
        else:
            median[name], first[name] = setting.seconds(step, 1 if setting.tiny else 8), seconds
        del step
        setting.forget()
    return [*rows(setting, setting.config(shape, sequences), median, first), *failed]


def rows(setting: Setting, config: RunConfig, median: Mapping[str, float], first: Mapping[str, float]) -> list[Row]:
    """Return a row for each contender from the seconds of its steps."""
    tokens, peak = config.batch.tokens_per_step, peak_flops(setting.device)
    flops = count_flops(config.model).total * tokens
    best = min((value for name, value in median.items() if not name.startswith("ours")), default=None)
    return [
        {
            "contender": name, "tokens/s": tokens / value, "ms a step": 1000 * value,
            "x best peer": None if best is None else best / value,
            "MFU": None if peak is None else flops / value / peak, "first step, s": first[name],
        }
        for name, value in median.items()
    ]  # fmt: skip
