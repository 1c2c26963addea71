"""Small runs for distributed tests: a configuration, its synthetic batches, the plain reference, and the spread run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config.base import parse_section
from trainer.config.run import RunConfig

STEPS, SEQUENCES, VOCAB, TOKENS = 12, 8, 64, 16


@dataclass(frozen=True)
class MicroBatch:
    """The contract of trainer/data."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None
    documents: Tensor | None = None
    begins: Tensor | None = None


def tiny(**sections: Any) -> RunConfig:
    """Return a run of 12 steps of a two-layer model; sections are merged over the defaults."""
    values: dict[str, Any] = {
        "model": {
            "d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": VOCAB, "context_length": TOKENS, "d_ff": 48,
        },
        "data": {},
        "batch": {"tokens_per_step": SEQUENCES * TOKENS},
        "steps": STEPS,
        # With an eps of 1e-8, AdamW makes the rounding of the smallest gradients steps of full size: one process in
        # float32 is then up to 1e-5 from float64, and processors differ by more than the tolerance of these tests.
        "optim": {"lr": 3e-3, "clip_norm": 0.5, "eps": 1e-6},
        "precision": "fp32",
        "device": "cpu",
    }  # fmt: skip
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    if values["optim"].get("name") == "sgd":  # which has no eps
        del values["optim"]["eps"]
    return parse_section(RunConfig, values, "tiny")


def global_batch(step: int, *, masked: bool = False, length: int = TOKENS) -> MicroBatch:
    """Return the whole batch of a step, (SEQUENCES, length): a pure function of the step."""
    random = np.random.default_rng(step)
    tokens = torch.from_numpy(random.integers(0, VOCAB, (SEQUENCES, length + 1)))
    tokens[:, 1::2] = (tokens[:, 0:-1:2] * 3 + 1) % VOCAB  # something to learn
    weights = documents = None
    if masked:
        weights = torch.from_numpy(random.integers(0, 2, (SEQUENCES, length)).astype(np.float32))
        weights[0] = 0.0
        cuts = random.integers(0, 6, (SEQUENCES, length)) == 0
        documents = torch.from_numpy(np.cumsum(cuts, axis=1).astype(np.int32))
    return MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), weights, documents)


def part(batch: MicroBatch, rows: slice) -> MicroBatch:
    """Return some sequences of a batch."""
    fields = (batch.inputs, batch.targets, batch.weights, batch.documents)
    return MicroBatch(*(None if field is None else field[rows] for field in fields))


def micro_batches(
    batch: MicroBatch, dp_rank: int, dp_size: int, accumulation: int, sequences: int = SEQUENCES
) -> list[MicroBatch]:
    """Return one data rank's micro-batches of the first `sequences`."""
    rows = sequences // dp_size // accumulation
    first = dp_rank * rows * accumulation
    return [part(batch, slice(first + i * rows, first + (i + 1) * rows)) for i in range(accumulation)]


def reference(
    config: RunConfig, steps: int = STEPS, masked: bool = False, sizes: Sequence[int] = ()
) -> list[tuple[float, float]]:
    """Train in one process in plain torch; return (loss, gradient norm before clipping) of each step.

    `sizes`: sequences of the first steps, where the batch rises.
    """
    from trainer.models.build import build_model
    from trainer.models.common.head import LossTerms
    from trainer.optim.groups import parameter_groups, set_rates

    torch.manual_seed(0)
    model = build_model(config.model, config.seed)
    model.loss_terms = LossTerms(config.optim.label_smoothing, config.optim.z_loss)
    lr = float(config.optim.lr)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.optim), lr=lr, betas=config.optim.betas, eps=config.optim.eps
    )
    set_rates(optimizer.param_groups, lr)
    curve = []
    for step in range(steps):
        batch = global_batch(step, masked=masked, length=config.model.context_length)
        batch = part(batch, slice(0, size_of(step, sizes)))
        losses = model(batch.inputs, batch.targets, documents=batch.documents)
        weights = torch.ones_like(losses) if batch.weights is None else batch.weights
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        curve.append((float(loss), float(norm)))
    return curve


def size_of(step: int, sizes: Sequence[int]) -> int:
    """Return the sequences of a step, of which the first steps may have fewer."""
    return sizes[step] if step < len(sizes) else SEQUENCES


def spread(
    config: RunConfig,
    accumulation: int = 1,
    masked: bool = False,
    meta: bool = False,
    steps: int = STEPS,
    sizes: Sequence[int] = (),
) -> list[Any]:
    """Train on this world; return (loss, gradient norm) of each step. Runs on a rank of the pool.

    `sizes`: sequences of the first steps, in micro-batches as large as those of the whole batch, or smaller.
    """
    from trainer.engine.build import build_engine
    from trainer.models.build import build_model, make_model
    from trainer.parallel.start import start

    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    if meta:
        with torch.device("meta"):
            model = make_model(config.model)
    else:
        model = build_model(config.model, config.seed)
    engine = build_engine(config, model, mesh, lr=1.0, accumulation=accumulation, device=device)
    curve = []
    for step in range(steps):
        size = size_of(step, sizes)
        parts = max(accumulation * size // SEQUENCES, 1)
        batch = global_batch(step, masked=masked, length=config.model.context_length)
        batches = micro_batches(batch, mesh.dp_rank, mesh.dp_size, parts, size)
        outcome = engine.train_step(batches, float(config.optim.lr))
        curve.append((outcome.loss, outcome.grad_norm))
    engine.close()
    return curve
