"""Step time against nanoGPT, and DeepSpeed's overhead over plain torch. One process, interleaved, ratios.

    python -m benchmarks.step_time [--sizes 1M 10M] [--threads 2] [--rounds 7] [--sequences 16]

The peer is a plain GPT-2 in the style of nanoGPT (github.com/karpathy/nanoGPT, model.py and train.py),
written here anew: fused QKV, scaled_dot_product_attention, cross_entropy over all logits, AdamW(fused), clipping, one
backward pass a step. Ours is measured at the same shape (learned positions, LayerNorm, GELU, biases, tied), first with
the same plain loop, then through DeepSpeed as a run has it. All three take turns, so drift of the machine hits all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.load import run_from_values
from trainer.config.run import RunConfig
from trainer.data.read.batches import MicroBatch
from trainer.engine.build import build_engine
from trainer.models.build import build_model
from trainer.models.transformer.config import TransformerConfig
from trainer.parallel.start import start

VOCAB, CONTEXT = 4096, 256


class PeerBlock(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.c_attn, self.c_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.c_fc, self.mlp_proj, self.gelu = nn.Linear(d, 4 * d), nn.Linear(4 * d, d), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (p.view(B, T, self.heads, -1).transpose(1, 2) for p in self.c_attn(self.ln_1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))
        out: Tensor = x + self.mlp_proj(self.gelu(self.c_fc(self.ln_2(x))))
        return out


class Peer(nn.Module):
    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        assert c.n_heads is not None
        self.wte, self.wpe = nn.Embedding(VOCAB, c.d_model), nn.Embedding(CONTEXT, c.d_model)
        self.h = nn.ModuleList(PeerBlock(c.d_model, c.n_heads) for _ in range(c.n_layers))
        self.ln_f, self.lm_head = nn.LayerNorm(c.d_model), nn.Linear(c.d_model, VOCAB, bias=False)
        self.wte.weight = self.lm_head.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def config_of(size: str, sequences: int) -> RunConfig:
    shape = {
        "size": size, "vocab_size": VOCAB, "context_length": CONTEXT, "position": "learned", "norm": "layernorm",
        "mlp": "gelu", "bias": True,
    }  # fmt: skip
    values = {"model": shape, "data": {}, "batch": {"tokens_per_step": sequences * CONTEXT}, "steps": 10}
    return run_from_values({**values, "parallel": {"zero_stage": 1}}, "benchmark")


def plain_loop(model: nn.Module, loss_of: Callable[[MicroBatch], Tensor]) -> Callable[[MicroBatch], None]:
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)

    def step(batch: MicroBatch) -> None:
        loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def contenders(size: str, sequences: int) -> dict[str, Callable[[MicroBatch], None]]:
    config = config_of(size, sequences)
    assert isinstance(config.model, TransformerConfig)
    peer, ours = Peer(config.model), build_model(config.model, 0)
    mesh = start(config.parallel, torch.device("cpu"))
    engine = build_engine(
        config, build_model(config.model, 0), mesh, lr=1e-3, accumulation=1, device=torch.device("cpu")
    )

    def through_deepspeed(batch: MicroBatch) -> None:
        engine.train_step([batch], 1e-3)

    return {
        "nanoGPT style": plain_loop(peer, lambda b: peer(b.inputs, b.targets)),
        "ours, plain loop": plain_loop(ours, lambda b: ours(b.inputs, b.targets).mean()),
        "ours, DeepSpeed": through_deepspeed,
    }


def measure(size: str, sequences: int, rounds: int, inner: int) -> dict[str, float]:
    """Return the median over rounds of the fastest step in each round, in seconds."""
    steps = contenders(size, sequences)
    tokens = torch.randint(0, VOCAB, (sequences, CONTEXT + 1))
    batch = MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step(batch)
    for _ in range(rounds):
        for name, step in steps.items():
            best = float("inf")
            for _ in range(inner):
                began = time.perf_counter()
                step(batch)
                best = min(best, time.perf_counter() - began)
            times[name].append(best)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1M", "10M"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--inner", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=16, help="of one step")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.sequences} x {CONTEXT} tokens, vocabulary {VOCAB}, {options.threads} threads, float32")
    for size in options.sizes:
        found = measure(size, options.sequences, options.rounds, options.inner)
        base, plain = found["nanoGPT style"], found["ours, plain loop"]
        for name, seconds in found.items():
            print(f"{size:>5}  {name:<18} {seconds * 1e3:8.1f} ms   {seconds / base:5.3f} x nanoGPT style")
        print(f"{size:>5}  DeepSpeed over our plain loop: {found['ours, DeepSpeed'] / plain:5.3f} x")


if __name__ == "__main__":
    main()
