"""The Plan: everything that follows from a configuration and a world. Printed before anything starts, saved, tested."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from trainer.config.parallel import Degrees, check_model_splits, resolve_degrees
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.plain_json import to_json
from trainer.data.order.ramp import Ramp
from trainer.data.order.skipping import parse_ranges, steps_before
from trainer.models.registry import cost_of
from trainer.plan.batch import BatchPlan, plan_batch
from trainer.plan.compiling import Mode, check_graphs, compile_mode
from trainer.plan.counting import count_flops, count_parameters
from trainer.plan.deepspeed import deepspeed_config
from trainer.plan.fp8 import check_fp8
from trainer.plan.identity import result_hash
from trainer.plan.learning_rate import peak_lr
from trainer.plan.length import ramp_of, total_steps, total_tokens
from trainer.plan.memory import Memory, rank_memory
from trainer.plan.sharding import check_optimizer, effective_stage, resolve_precision


@dataclass(frozen=True)
class Plan:
    """Derived numbers of one run. Tokens, steps and FLOPs are of the whole run; memory is of one rank."""

    name: str
    config_hash: str
    degrees: Degrees
    zero_stage: int
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
    deepspeed: dict[str, Any]  # the JSON that DeepSpeed is given; empty where another engine shards
    batch_warmup: tuple[tuple[int, int], ...] = ()  # sequences of a step, and steps, of each stage of batch.warmup
    compiled: Mode | None = None  # what torch.compile takes

    def to_json(self) -> str:
        """Return the plan as indented JSON."""
        values = {**asdict(self), "world": self.degrees.world}
        if not self.batch_warmup:
            values.pop("batch_warmup")
        return to_json(values, indent=2) + "\n"

    @property
    def ramp(self) -> Ramp:
        """The sequences of each step."""
        return Ramp(self.sequences_per_step, self.batch_warmup)

    def tokens_before(self, step: int) -> int:
        """Return the tokens of the first `step` steps."""
        return self.ramp.before(step) * (self.tokens_per_step // self.sequences_per_step)

    def tokens_at(self, step: int) -> int:
        """Return the tokens of step `step` (0-based)."""
        return self.tokens_before(step + 1) - self.tokens_before(step)

    @property
    def layout(self) -> str:
        """The layout in words, for tables and ledgers."""
        d = self.degrees
        return f"data={d.data} sequence={d.sequence} tensor={d.tensor} zero={self.zero_stage}"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        values.pop("world")
        rising = tuple((int(batch), int(steps)) for batch, steps in values.pop("batch_warmup", ()))
        if isinstance(values.get("compiled"), bool):  # as plans once said it
            values["compiled"] = "blocks" if values["compiled"] else None
        degrees = Degrees(**values["degrees"])
        return cls(**{**values, "degrees": degrees, "batch_warmup": rising})


def make_plan(config: RunConfig, *, world: int, gpu: bool = False, train_tokens: int | None = None) -> Plan:
    """Derive the plan of a run whose vocabulary is known.

    `train_tokens` is the size of the training set, from which epochs follow. Raises UserError, with the numbers,
    where the configuration and the world do not fit.
    """
    degrees, batch = share_out(config, world, gpu=gpu)
    steps, warmup, ramp = total_steps(config), warmup_steps(config), ramp_of(config)
    precision = resolve_precision(config.precision, gpu=gpu)
    stage = effective_stage(config, replicas=degrees.data * degrees.sequence, precision=precision)
    flops = count_flops(config.model)
    tokens = total_tokens(config)
    memory = run_memory(config, degrees, batch, gpu=gpu)
    return Plan(
        name=config.name,
        config_hash=result_hash(config, gpu=gpu),
        degrees=degrees,
        zero_stage=stage,
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
        lr=peak_lr(config.optim, count_parameters(config.model).body, tokens, config.batch.tokens_per_step),
        warmup_steps=warmup,
        precision="fp8" if config.precision == "fp8" else precision,
        memory_bytes=memory.by_part(),
        deepspeed=deepspeed_config(config, stage=stage, accumulation=batch.accumulation, precision=precision)
        if config.parallel.engine == "deepspeed"
        else {},
        batch_warmup=ramp.stages,
        compiled=compile_mode(config, gpu=gpu),
    )


def run_memory(config: RunConfig, degrees: Degrees, batch: BatchPlan, *, gpu: bool) -> Memory:
    """Return the memory of one rank of a run whose vocabulary is known."""
    precision = resolve_precision(config.precision, gpu=gpu)
    stage = effective_stage(config, replicas=degrees.data * degrees.sequence, precision=precision)
    return rank_memory(
        config.model,
        config.parallel.model_copy(update={"zero_stage": stage}),
        data_parallel=degrees.data,
        micro_batch=batch.micro_batch,
        bytes_per_value=2 if precision == "bf16" else 4,
        gpu=gpu,
        accumulates=batch.accumulation > 1 or stage > 1,  # from stage 2 on gradients have buffers, which stay
    )


def share_out(config: RunConfig, world: int, *, gpu: bool = False) -> tuple[Degrees, BatchPlan]:
    """Divide a run over a world. Needs no vocabulary, so that what does not fit is said before data are prepared.

    Raises UserError, with the numbers, where degrees, widths, batch or warm-up do not fit.
    """
    degrees = resolve_degrees(config.parallel, world)
    check_model_splits(config.model, degrees)
    if config.data.confines_documents:
        cost_of(config.model.family).check_documents(config.model)
    check_optimizer(config)
    warmup_steps(config)
    context_length, micro_batch = config.model.context_length, config.batch.micro_batch
    batch = plan_batch(config.batch.tokens_per_step, context_length, degrees.data, micro_batch)
    _check_ramp(config, degrees.data, batch.micro_batch)
    if config.precision == "fp8":
        check_fp8(config.model, degrees, micro_batch=batch.micro_batch, gpu=gpu)
    check_graphs(config, degrees, batch, gpu=gpu)
    return degrees, batch


def _check_ramp(config: RunConfig, data_parallel: int, micro_batch: int) -> None:
    """Raise UserError where the steps of a batch that rises cannot be divided as the whole batch is."""
    ramp = ramp_of(config)
    for sequences, _ in ramp.stages:
        steps = f"batch.warmup has steps of {sequences} sequences"
        if sequences % data_parallel:
            raise UserError(f"{steps}, which {data_parallel} data-parallel ranks cannot share: take fewer doublings")
        if config.precision == "fp8" and sequences // data_parallel % micro_batch:
            raise UserError(
                f"{steps}, no whole micro-batches of {micro_batch} on {data_parallel} data-parallel ranks, and "
                "precision fp8 needs these: take fewer doublings, or set batch.micro_batch"
            )
    if ramp.stages and (first := steps_before(parse_ranges(config.skip_steps))) < ramp.steps:
        raise UserError(
            f"skip_steps begins at {first}, and batch.warmup has steps of other sizes before step "
            f"{ramp.steps}: leave out later ones, or take batch.warmup out"
        )


def warmup_steps(config: RunConfig) -> int:
    """Return the steps of the warm-up. Raises UserError where the run is not longer."""
    steps = total_steps(config)
    warmup = config.schedule.warmup.steps(tokens_per_step=config.batch.tokens_per_step, total_steps=steps)
    if warmup >= steps and config.schedule.kind != "constant":
        raise UserError(
            f"schedule.warmup is {warmup} steps, but the run has only {steps}: shorten one or lengthen the other"
        )
    return warmup
