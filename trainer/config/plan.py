"""The Plan: everything that follows from a configuration and a world. Printed before anything starts, saved, tested."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from trainer.config.batch import plan_batch
from trainer.config.counting import count_flops, count_parameters
from trainer.config.learning_rate import peak_lr
from trainer.config.memory import rank_memory
from trainer.config.model import ModelConfig
from trainer.config.run import RunConfig
from trainer.errors import UserError


@dataclass(frozen=True)
class Layout:
    """The degrees of the mesh. Their product is the world."""

    data: int
    tensor: int
    sequence: int
    zero_stage: int

    @property
    def world(self) -> int:
        return self.data * self.tensor * self.sequence

    def __str__(self) -> str:
        return f"data={self.data} tensor={self.tensor} sequence={self.sequence} zero={self.zero_stage}"


@dataclass(frozen=True)
class Plan:
    """Derived numbers of one run. Tokens, steps and FLOPs are of the whole run; memory is of one rank."""

    name: str
    config_hash: str
    layout: Layout
    parameters: dict[str, int]
    flops_per_token: dict[str, int]
    tokens_per_step: int
    sequences_per_step: int
    micro_batch: int
    accumulation: int
    steps: int
    tokens: int
    epochs: float | None
    flops: float
    lr: float
    warmup_steps: int
    precision: str
    memory_bytes: dict[str, int]

    def to_json(self) -> str:
        """Return the plan as indented JSON."""
        return json.dumps({**asdict(self), "world": self.layout.world}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        values.pop("world")
        return cls(**{**values, "layout": Layout(**values["layout"])})


def make_plan(config: RunConfig, *, world: int, gpu: bool = False, train_tokens: int | None = None) -> Plan:
    """Derive the plan of a run whose vocabulary is known.

    `train_tokens` is the size of the training set, from which epochs follow. Raises UserError, with the numbers,
    where the configuration and the world do not fit.
    """
    layout = plan_layout(config, world)
    batch = plan_batch(config.batch.tokens_per_step, config.model.context_length, layout.data, config.batch.micro_batch)
    steps = total_steps(config)
    warmup = config.schedule.warmup.steps(tokens_per_step=config.batch.tokens_per_step, total_steps=steps)
    if warmup >= steps and config.schedule.kind != "constant":
        raise UserError(
            f"schedule.warmup is {warmup} steps, but the run has only {steps}: shorten one or lengthen the other"
        )
    precision = config.precision if config.precision != "auto" else ("bf16" if gpu else "fp32")
    flops = count_flops(config.model)
    tokens = steps * config.batch.tokens_per_step
    memory = rank_memory(
        config.model,
        config.parallel,
        data_parallel=layout.data,
        micro_batch=batch.micro_batch,
        bytes_per_value=2 if precision == "bf16" else 4,
    )
    return Plan(
        name=config.name,
        config_hash=config.result_hash(),
        layout=layout,
        parameters=count_parameters(config.model).by_part(),
        flops_per_token={**asdict(flops), "total": flops.total},
        tokens_per_step=config.batch.tokens_per_step,
        sequences_per_step=batch.sequences_per_step,
        micro_batch=batch.micro_batch,
        accumulation=batch.accumulation,
        steps=steps,
        tokens=tokens,
        epochs=tokens / train_tokens if train_tokens else None,
        flops=float(flops.total) * tokens,
        lr=peak_lr(config.optim, config.model.d_model),
        warmup_steps=warmup,
        precision=precision,
        memory_bytes=memory.by_part(),
    )


def total_steps(config: RunConfig) -> int:
    """Return the optimizer steps of the run; a length in tokens is rounded up to whole steps."""
    if config.steps is not None:
        return config.steps
    assert config.tokens is not None
    return -(-config.tokens // config.batch.tokens_per_step)


def plan_layout(config: RunConfig, world: int) -> Layout:
    """Fill in the data-parallel degree and check the model against the tensor and sequence degrees."""
    parallel = config.parallel
    inner = parallel.tensor * parallel.sequence
    asked = f"tensor {parallel.tensor} x sequence {parallel.sequence}"
    if parallel.data == -1:
        if world % inner:
            raise UserError(
                f"a world of {world} ranks does not divide by {asked} = {inner}: change the degrees or the ranks"
            )
        data = world // inner
    else:
        data = parallel.data
        if data * inner != world:
            raise UserError(
                f"data {data} x {asked} = {data * inner} ranks, but the world has {world}: "
                "make the product equal to the world, or set parallel.data to -1"
            )
    check_split(config.model, parallel.tensor, parallel.sequence)
    return Layout(data, parallel.tensor, parallel.sequence, parallel.zero_stage)


def check_split(model: ModelConfig, tensor: int, sequence: int) -> None:
    """Refuse, with the numbers, degrees that do not divide what they split."""
    split = {
        "n_heads": model.n_heads,
        "key/value heads": model.kv_heads,
        "d_ff": model.ff_width,
        "rows of the vocabulary (set model.vocab_multiple_of to round them up)": model.vocab_rows,
    }
    for what, number in split.items():
        if number % tensor:
            raise UserError(f"parallel.tensor {tensor} does not divide {number} {what}")
    if model.context_length % sequence:
        raise UserError(f"parallel.sequence {sequence} does not divide context_length {model.context_length}")
    if model.n_heads % (tensor * sequence) or model.kv_heads % (tensor * sequence):
        raise UserError(
            f"tensor {tensor} x sequence {sequence} = {tensor * sequence} does not divide "
            f"{model.n_heads} heads and {model.kv_heads} key/value heads"
        )
