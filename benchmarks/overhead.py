"""What the engine costs: step time against the same model in a bare torch loop, measured in turns in one run.

    python -m benchmarks.overhead                data: torch DDP; tensor: a hand-written pair of all-reduces
    python -m benchmarks.overhead --size 1M --ranks 1
    python -m benchmarks.overhead --engine fsdp --peer deepspeed        one engine against the other

Each rank alternates blocks of steps of both contenders, so that a change of the machine's load meets both. The ratio of
each pair of neighbouring blocks is taken, and their median is reported, with the quartiles: by the wall clock, and by
the processor time of the first rank, which a busy machine blurs less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.ranks import measured_by_ranks
from trainer.config.base import parse_section
from trainer.config.run import RunConfig
from trainer.data.read.batches import MicroBatch
from trainer.engine.build import build_engine
from trainer.models.build import build_model
from trainer.optim.groups import parameter_groups
from trainer.parallel.start import start
from trainer.parallel.tensor.vocab_loss import VocabularyParallelLoss

VOCAB, TOKENS = 4096, 128
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def run_config(size: str, tensor: int, zero_stage: int, sequences: int, engine: str = "deepspeed") -> RunConfig:
    """Return a run of a model of this size."""
    return parse_section(
        RunConfig,
        {
            "model": {"size": size, "vocab_size": VOCAB, "context_length": TOKENS},
            "data": {},
            "batch": {"tokens_per_step": sequences * TOKENS},
            "steps": 1,
            "parallel": {"engine": engine, "tensor": tensor, "zero_stage": zero_stage},
            "precision": "fp32",
            "device": "cpu",
        },
        "benchmark",
    )


def random_batch(dp_rank: int, sequences: int, length: int = TOKENS, vocab_size: int = VOCAB) -> MicroBatch:
    """Return random tokens of one data rank."""
    generator = torch.Generator().manual_seed(dp_rank)
    tokens = torch.randint(vocab_size, (sequences, length + 1), generator=generator)
    return MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


class _Copy(torch.autograd.Function):
    """Megatron-LM's f: the input as it is; its gradient is summed over tensor ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        return summed


class _Sum(torch.autograd.Function):
    """Megatron-LM's g: the sum over tensor ranks; its gradient is passed through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def split_by_hand(model: nn.Module, rank: int, ranks: int) -> nn.Module:
    """Split a transformer over all ranks with hooks around plain linear layers: the fewest lines that do it."""

    def cut(module: Any, dim: int) -> None:
        for parameter in module.parameters():
            width = parameter.shape[dim] // ranks
            parameter.data = parameter.data.narrow(dim, rank * width, width).clone()

    def column(module: nn.Module) -> None:
        cut(module, 0)
        module.register_forward_pre_hook(lambda _, args: (_Copy.apply(args[0]), *args[1:]))

    parts: Any = model
    for block in parts.blocks:
        column(block.attn.qkv)
        column(block.mlp.gate_up)
        for row in (block.attn.out, block.mlp.down):
            cut(row, 1)
            row.register_forward_hook(lambda _, __, out: _Sum.apply(out))
    words = VOCAB // ranks
    column(parts.head)  # tied: the embedding is cut with it

    def look_up(inputs: Tensor) -> Tensor:
        outside = (inputs < rank * words) | (inputs >= (rank + 1) * words)
        local = (inputs - rank * words).masked_fill(outside, 0)
        found = nn.functional.embedding(local, parts.embed.weight).masked_fill(outside.unsqueeze(-1), 0.0)
        return _Sum.apply(found)  # type: ignore[no-any-return]

    parts.embed.forward = look_up
    assert dist.group.WORLD is not None
    parts.token_loss = VocabularyParallelLoss(dist.group.WORLD, rank)
    return model


def bare_loop(config: RunConfig, batch: MicroBatch, tensor: int) -> Callable[[], None]:
    """Return one step of plain torch: DDP over data ranks, or the split by hand; the same optimizer and clipping."""
    built = build_model(config.model, 0)
    world = dist.get_world_size()
    model: nn.Module = built
    if tensor > 1:
        model = split_by_hand(built, dist.get_rank(), world)
    elif world > 1:
        model = nn.parallel.DistributedDataParallel(built)
    optimizer = torch.optim.AdamW(parameter_groups(built, config.optim), lr=1e-3, fused=True)

    def step() -> None:
        loss = model(batch.inputs, batch.targets).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach()
        if world > 1:
            dist.all_reduce(total)
        float(total), float(norm)

    return step


def engine_loop(config: RunConfig, batch: MicroBatch) -> Callable[[], None]:
    """Return one step of the engine."""
    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    engine = build_engine(config, build_model(config.model, 0), mesh, lr=1e-3, accumulation=1, device=device)
    return lambda: (engine.train_step([batch], 1e-3), None)[1]


def measure(contenders: list[Callable[[], None]], blocks: int, steps: int) -> list[dict[str, list[float]]]:
    """Return the seconds of each block of steps by clock, for each contender; the order within a pair alternates."""
    seconds: list[dict[str, list[float]]] = [{name: [] for name in CLOCKS} for _ in contenders]
    for contender in contenders:
        contender(), contender()
    for block in range(blocks):
        order = range(len(contenders)) if block % 2 else reversed(range(len(contenders)))
        for index in order:
            dist.barrier()
            began = {name: clock() for name, clock in CLOCKS.items()}
            for _ in range(steps):
                contenders[index]()
            dist.barrier()
            for name, clock in CLOCKS.items():
                seconds[index][name].append(clock() - began[name])
    return seconds


def measure_both(a: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Measure the engine and its peer on this rank."""
    tensor = a.ranks if a.tensor else 1
    batch = random_batch(0 if a.tensor else dist.get_rank(), a.sequences)

    def loop(name: str) -> Callable[[], None]:
        config = run_config(a.size, tensor, a.zero, a.sequences, "deepspeed" if name == "bare" else name)
        return bare_loop(config, batch, tensor) if name == "bare" else engine_loop(config, batch)

    engine, peer = measure([loop(a.engine), loop(a.peer)], a.blocks, a.steps)
    return engine, peer


def compare(a: argparse.Namespace) -> dict[str, Any]:
    """Run all ranks and return the figures."""
    engine, peer = measured_by_ranks(measure_both, a.ranks, a)
    what = {"size": a.size, "ranks": a.ranks, "axis": "tensor" if a.tensor else "data", "zero_stage": a.zero}
    what |= {"engine": a.engine, "peer": a.peer}
    return {**what, **{name: summary(engine[name], peer[name], a.steps) for name in CLOCKS}}


def summary(engine: list[float], peer: list[float], steps: int) -> dict[str, Any]:
    """Return the median milliseconds of a step of both, and the median of the ratios with its quartiles."""
    low, middle, high = statistics.quantiles([x / y for x, y in zip(engine, peer, strict=True)], n=4)
    return {
        "engine_ms": round(1000 * statistics.median(engine) / steps, 2),
        "peer_ms": round(1000 * statistics.median(peer) / steps, 2),
        "ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)],
    }  # fmt: skip


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="10M")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--tensor", action="store_true", help="split the model over the ranks instead of the data")
    parser.add_argument("--zero", type=int, default=1)
    parser.add_argument("--engine", choices=("deepspeed", "fsdp"), default="deepspeed")
    parser.add_argument("--peer", choices=("bare", "deepspeed", "fsdp"), default="bare")
    parser.add_argument("--sequences", type=int, default=8, help="of one rank, 128 tokens each")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    print(json.dumps(compare(parser.parse_args())))


if __name__ == "__main__":
    main()
