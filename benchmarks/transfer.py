"""By how much does the best learning rate move while the width grows 16 times, with and without completep?

    nice python -m benchmarks.transfer --out /tmp/transfer.jsonl

Models of two layers read bytes of the embedded text, 200 steps of 256 tokens, warm-up and linear decay to 0. Rates come
in factors of 2 about the best of the width before, until the best has a worse one on both sides; the optimum is that of
the parabola in the logarithm of the rate through those. Runs that a file holds are not made again.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.config.base import parse_section
from trainer.config.run import RunConfig
from trainer.data.source.embedded import documents
from trainer.models.build import build_model
from trainer.optim.groups import parameter_groups, set_rates
from trainer.plan.learning_rate import lr_share

WIDTHS = (24, 48, 96, 192, 384)
STEPS, SEQUENCES, TOKENS, HELD_OUT = 200, 8, 32, 256  # the last: sequences that measure the loss
FIRST = 2.0**-6  # where the search begins at the base


def config_of(width: int, parametrization: str, seed: int) -> RunConfig:
    """Return a run at a width."""
    transferred = parametrization != "standard"
    base = {"base": {"d_model": WIDTHS[0], "n_layers": 2}} if transferred else {}
    values = {
        "model": {
            "d_model": width, "n_layers": 2, "n_heads": width // WIDTHS[0], "vocab_size": 256, "context_length": TOKENS,
        },
        "data": {},
        "batch": {"tokens_per_step": SEQUENCES * TOKENS},
        "steps": STEPS,
        "seed": seed,
        "optim": {"lr": 1.0, "parametrization": parametrization, **base},
        "schedule": {"kind": "linear", "warmup": "20 steps", "final_ratio": 0.0},
    }  # fmt: skip
    return parse_section(RunConfig, values, "transfer")


def sequences(count: int) -> Tensor:
    """Return so many sequences of TOKENS + 1 bytes, in an order that nothing but the text determines."""
    text = "\n".join(document["text"] for document in islice(documents(), 60)).encode()
    whole = np.frombuffer(text, dtype=np.uint8)[: len(text) // (TOKENS + 1) * (TOKENS + 1)].reshape(-1, TOKENS + 1)
    order = np.random.default_rng(0).permutation(len(whole))[:count]
    assert len(order) == count, "the text is too short"
    return torch.from_numpy(whole[order].astype(np.int64))


def held_out_loss(config: RunConfig, lr: float) -> float:
    """Train with a peak learning rate; return the loss on held-out sequences in nats."""
    tokens = sequences(HELD_OUT + STEPS * SEQUENCES)
    held_out, training = tokens[:HELD_OUT], tokens[HELD_OUT:]
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(config.seed))
    model, optim = build_model(config.model, config.seed), config.optim
    optimizer = torch.optim.AdamW(parameter_groups(model, optim), lr=1.0, betas=optim.betas, fused=True)
    for step, rows in enumerate(order.split(SEQUENCES)):
        share = lr_share(config.schedule, step, total_steps=STEPS, tokens_per_step=SEQUENCES * TOKENS)
        set_rates(optimizer.param_groups, lr * share)
        batch = training[rows]
        model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        loss = float(model(held_out[:, :-1].contiguous(), held_out[:, 1:].contiguous()).mean())
    return loss if math.isfinite(loss) else math.inf


class Runs:
    """Losses by (parametrization, width, power of 2 of the rate), means over seeds; each is trained once."""

    def __init__(self, file: Path, seeds: int) -> None:
        self.file, self.seeds = file, seeds
        lines = file.read_text().splitlines() if file.exists() else []
        self.known = {tuple(key): loss for key, loss in map(json.loads, lines)}

    def loss(self, parametrization: str, width: int, power: int) -> float:
        """Return the mean loss over seeds at a rate of 2^power."""
        losses: list[float] = []
        for seed in range(self.seeds):
            key = (parametrization, width, power, seed)
            if key not in self.known:
                self.known[key] = held_out_loss(config_of(width, parametrization, seed), 2.0**power)
                with self.file.open("a") as out:
                    out.write(json.dumps([key, self.known[key]]) + "\n")
            losses.append(self.known[key])
        return sum(losses) / len(losses)

    def best(self, parametrization: str, width: int, start: int) -> tuple[int, float, float]:
        """Return the best power, the optimum of the parabola as a rate, and the loss there."""
        power = start
        while True:
            low, middle, high = (self.loss(parametrization, width, power + step) for step in (-1, 0, 1))
            if middle <= min(low, high):
                break
            power += -1 if low < high else 1
        curvature = low - 2 * middle + high
        shift = (low - high) / (2 * curvature)
        return power, 2.0 ** (power + shift), middle - (low - high) ** 2 / (8 * curvature)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("transfer.jsonl"))
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = Runs(arguments.out, arguments.seeds)
    print("| parametrization | width | best lr | loss there |\n|---|---:|---:|---:|")
    for parametrization in ("completep", "standard"):
        power, rates = round(math.log2(FIRST)), []
        for width in WIDTHS:
            power, rate, loss = runs.best(parametrization, width, power)
            rates.append(rate)
            print(f"| {parametrization} | {width} | {rate:.4g} | {loss:.4f} |", flush=True)
        drift = max(rates) / min(rates)
        print(
            f"\n{parametrization}: the best rates differ by {drift:.2f} times over {WIDTHS[-1] // WIDTHS[0]}x width\n"
        )


if __name__ == "__main__":
    main()
