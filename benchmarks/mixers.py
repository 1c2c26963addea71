"""Mixers against their peers, and the planner's seconds against measured ones. One process, taking turns, ratios.

    python -m benchmarks.mixers [lstm modules scan attention plan] [--rounds 25] [--threads 1]

`lstm` is a whole training step against `torch.nn.LSTM` in a plain loop, `modules` the forward and backward pass of
Mamba-2 and gated delta against `transformers`' CPU paths at the same shape, `scan` the linear scan against a loop over
tokens, `attention` a block against one of nanoGPT's style, `plan` the planned against the measured step of every mixer.
Processor time counts; the figure is the least of many alternating repeats, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step_time import PeerBlock, plain_loop
from launch.planner.expected import matrix_rate, seconds_on_cpu
from trainer.config.load import run_from_values
from trainer.config.model import ModelConfig, parse_model
from trainer.config.run import RunConfig
from trainer.data.read.batches import MicroBatch
from trainer.models.build import build_model
from trainer.models.common.scan import linear_scan
from trainer.models.interface import Context
from trainer.models.mixers.registry import MIXERS
from trainer.plan.plan import make_plan

VOCAB = 1024
Work = Callable[[], object]


def least(contenders: dict[str, Work], rounds: int) -> dict[str, float]:
    """Return the least processor time of each contender over alternating rounds, in seconds."""
    best = dict.fromkeys(contenders, float("inf"))
    for work in contenders.values():
        work()
    for _ in range(rounds):
        for name, work in contenders.items():
            began = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - began)
    return best


def report(title: str, found: dict[str, float]) -> None:
    """Print times and their ratios to the first, the peer."""
    peer = next(iter(found.values()))
    for name, seconds in found.items():
        print(f"{title:34} {name:26} {seconds * 1e3:9.2f} ms   {seconds / peer:6.3f}", flush=True)


def model_of(mixer: object, **changes: object) -> ModelConfig:
    shape = {"d_model": 256, "n_layers": 4, "vocab_size": VOCAB, "context_length": 256, "mixer": mixer}
    name = mixer if isinstance(mixer, str) else next(iter(mixer))  # type: ignore[call-overload]
    heads = {"n_heads": 4} if "n_heads" in MIXERS[name].cost_class.settings else {}
    return parse_model({**shape, **heads, **changes})


class PeerLstm(nn.Module):
    """Embedding, residual layers of norm, LSTM and projection, norm, head: what ours computes, from torch's modules."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.d_model
        self.embed, self.head = nn.Embedding(VOCAB, D), nn.Linear(D, VOCAB, bias=False)
        self.head.weight = self.embed.weight
        self.norms = nn.ModuleList(nn.RMSNorm(D, eps=1e-6) for _ in range(config.n_layers + 1))
        self.layers = nn.ModuleList(nn.LSTM(D, D, batch_first=True) for _ in range(config.n_layers))
        self.outs = nn.ModuleList(nn.Linear(D, D, bias=False) for _ in range(config.n_layers))

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.embed(inputs)
        for norm, layer, out in zip(self.norms, self.layers, self.outs, strict=False):
            x = x + out(layer(norm(x))[0])
        return F.cross_entropy(self.head(self.norms[-1](x)).flatten(0, 1), targets.flatten())


def mean_loss(model: nn.Module, batch: MicroBatch, **more: Tensor) -> Tensor:
    loss: Tensor = model(batch.inputs, batch.targets, **more)
    return loss.mean()


def lstm(rounds: int) -> None:
    for D, sequences in ((128, 8), (256, 8), (256, 32)):
        config = model_of("lstm", mlp="none", d_model=D, n_layers=2)
        tokens = torch.randint(0, VOCAB, (sequences, config.context_length + 1))
        batch = MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        documents = (torch.rand(batch.inputs.shape) < 1 / 100).cumsum(1)
        peer, ours, masked = PeerLstm(config), build_model(config, 0), build_model(config, 0)
        steps = {
            "torch.nn.LSTM": plain_loop(peer, partial(mean_loss, peer)),
            "ours": plain_loop(ours, partial(mean_loss, ours)),
            "ours, with documents": plain_loop(masked, partial(mean_loss, masked, documents=documents)),
        }
        found = least({name: partial(step, batch) for name, step in steps.items()}, rounds)
        report(f"LSTM step, width {D}, {sequences} x 256", found)


def forward_backward(module: Callable[[Tensor], Tensor], x: Tensor) -> Work:
    def work() -> None:
        module(x).sum().backward()

    return work


def ours_of(config: ModelConfig) -> Callable[[Tensor], Tensor]:
    mixer = build_model(config, 0).blocks[0].mixer  # type: ignore[union-attr, index]
    context = Context(torch.arange(config.context_length))
    return lambda x: mixer(x, context)  # type: ignore[no-any-return, operator]


def modules(rounds: int) -> None:
    from transformers import Mamba2Config, Qwen3NextConfig
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    for D, heads, sequences, T in ((256, 8, 4, 256), (256, 8, 2, 1000), (768, 24, 1, 512)):
        x = torch.randn(sequences, T, D, requires_grad=True)
        options = {"mamba2": {"state": 64, "norm_groups": 1}}
        ours = ours_of(model_of(options, d_model=D, n_layers=1, n_heads=heads, context_length=T))
        settings = {"hidden_size": D, "num_heads": heads, "head_dim": 2 * D // heads, "state_size": 64, "n_groups": 1}
        found = {}
        for chunk in (64, 256):
            theirs = Mamba2Mixer(Mamba2Config(**settings, chunk_size=chunk, num_hidden_layers=1), layer_idx=0)
            found[f"transformers, chunks of {chunk}"] = forward_backward(theirs, x)
        report(f"mamba2, {D} wide, {sequences} x {T}", least({**found, "ours": forward_backward(ours, x)}, rounds))
        theirs = Qwen3NextGatedDeltaNet(
            Qwen3NextConfig(
                hidden_size=D, linear_num_value_heads=heads, linear_num_key_heads=heads, num_hidden_layers=1,
                linear_key_head_dim=D // heads, linear_value_head_dim=D // heads, layer_types=["linear_attention"],
            ),
            layer_idx=0,
        )  # fmt: skip
        ours = ours_of(model_of("gated_delta", d_model=D, n_layers=1, n_heads=heads, context_length=T))
        pair = {"transformers": forward_backward(theirs, x), "ours": forward_backward(ours, x)}
        report(f"gated_delta, {D} wide, {sequences} x {T}", least(pair, rounds))


def loop_over_tokens(decay: Tensor, value: Tensor) -> Tensor:
    h, outputs = torch.zeros_like(value[:, 0]), []
    for a, v in zip(decay.unbind(1), value.unbind(1), strict=True):
        h = torch.addcmul(v, a, h)
        outputs.append(h)
    return torch.stack(outputs, dim=1)


def forth_and_back(function: Callable[..., Tensor], *arguments: Tensor | None) -> None:
    function(*arguments).sum().backward()


def scan(rounds: int) -> None:
    for B, T, D in ((8, 256, 256), (8, 1024, 256), (1, 8192, 256)):
        decay, value = torch.rand(B, T, D).requires_grad_(), torch.randn(B, T, D).requires_grad_()
        pair: dict[str, Work] = {
            "loop over tokens": partial(forth_and_back, loop_over_tokens, decay, value),
            "ours": partial(forth_and_back, linear_scan, decay, value, None),
        }
        report(f"scan, {B} x {T} x {D}", least(pair, rounds))


def attention(rounds: int) -> None:
    for D, heads, T in ((256, 4, 256), (512, 8, 512)):
        config = model_of(
            "attention", d_model=D, n_layers=1, n_heads=heads, context_length=T, position="learned", norm="layernorm",
            mlp="gelu", bias=True,
        )  # fmt: skip
        x, context = torch.randn(4, T, D, requires_grad=True), Context(torch.arange(T))
        block = build_model(config, 0).blocks[0]  # type: ignore[union-attr, index]
        pair = {
            "nanoGPT style": forward_backward(PeerBlock(D, heads), x),
            "ours": forward_backward(lambda x, b=block, c=context: b(x, c), x),  # type: ignore[misc, operator]
        }
        report(f"attention block, {D} wide, 4 x {T}", least(pair, rounds))


def run_of(config: ModelConfig, sequences: int) -> RunConfig:
    values = {
        "model": config.model_dump(mode="json", exclude_none=True), "data": {}, "steps": 100, "device": "cpu",
        "batch": {"tokens_per_step": sequences * config.context_length, "micro_batch": sequences},
        "precision": "fp32",
    }  # fmt: skip
    return run_from_values(values, "benchmark")


def planned_step(config: RunConfig, rate: float) -> float:
    """Return the planner's seconds of one step: those of 200 steps less those of 100."""
    many = config.model_copy(update={"steps": 200})
    times = [seconds_on_cpu(c, make_plan(c, world=1), rate, ranks=1) for c in (many, config)]
    return (times[0] - times[1]) / 100


def plan(rounds: int) -> None:
    rate = matrix_rate()
    print(f"matrix rate {rate / 1e9:.1f} GFLOP/s of a core")
    for D, layers, T, sequences in ((128, 4, 256, 8), (256, 4, 256, 8), (256, 2, 1024, 4)):
        for name in MIXERS:
            config = run_of(model_of(name, d_model=D, n_layers=layers, context_length=T), sequences)
            tokens = torch.randint(0, VOCAB, (sequences, T + 1))
            batch = MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
            model = build_model(config.model, 0)
            step = plain_loop(model, partial(mean_loss, model))
            measured = least({"step": partial(step, batch)}, rounds)["step"]
            planned = planned_step(config, rate)
            print(
                f"{D} wide, {layers} layers, {sequences} x {T:<5} {name:14} planned {planned * 1e3:8.1f} ms, "
                f"measured {measured * 1e3:8.1f} ms, ratio {planned / measured:5.2f}",
                flush=True,
            )


PARTS = {"lstm": lstm, "modules": modules, "scan": scan, "attention": attention, "plan": plan}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for part in options.parts:
        PARTS[part](options.rounds)


if __name__ == "__main__":
    main()
