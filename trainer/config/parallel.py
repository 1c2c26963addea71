"""The parallel section: how one model is spread over ranks. It never changes what is computed.

Everything here is arithmetic on small integers, so that a wrong layout is refused before any rank loads torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, model_validator

from trainer.config.base import Section
from trainer.config.identity import Execution
from trainer.config.model import ModelConfig
from trainer.contract.errors import UserError
from trainer.models.registry import cost_of


class ParallelConfig(Section):
    """Degrees of the mesh. Tensor ranks are innermost, so that they share a node."""

    data: Execution[int] = Field(
        -1, description="data-parallel degree; -1 takes what the other degrees leave of the world"
    )
    tensor: Execution[int] = Field(1, gt=0, description="tensor-parallel degree")
    sequence: Execution[int] = Field(1, gt=0, description="sequence-parallel (Ulysses) degree")
    engine: Execution[Literal["deepspeed", "fsdp"]] = Field(
        "deepspeed", description="what shards the run: DeepSpeed's ZeRO, or torch's fully sharded data parallelism"
    )
    zero_stage: Execution[Literal[0, 1, 2, 3]] = Field(
        1, description="what is sharded over data ranks (ZeRO, Rajbhandari 2020)"
    )
    offload: Execution[Literal["none", "optimizer", "parameters"]] = Field("none", description="what host memory holds")
    recompute: Execution[Literal["none", "selective", "full"]] = Field(
        "none", description="activations made again in the backward pass: of attention, or of whole blocks"
    )
    compile: Execution[Literal["auto"] | bool] = Field(
        "auto", description="torch.compile of each block; auto: on GPUs, where it was found equal to one process"
    )
    overlap: Execution[bool] = Field(
        False, description="overlap the backward all-reduce of column-parallel layers with compute"
    )
    timeout_seconds: Execution[float] = Field(
        600.0, gt=0, description="a collective that waits longer fails, and the run with it"
    )

    @model_validator(mode="after")
    def _engine_can(self) -> ParallelConfig:
        if self.engine == "deepspeed":
            return self
        cannot = {
            "zero_stage 0 (FSDP always shards: set 1, 2 or 3)": self.zero_stage == 0,
            f"sequence {self.sequence}": self.sequence > 1,
            f"offload {self.offload!r}": self.offload != "none",
        }
        for what, asked in cannot.items():
            if asked:
                raise ValueError(f"engine 'fsdp' cannot do {what}; engine 'deepspeed' can")
        return self

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> ParallelConfig:
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(f"offload 'parameters' needs zero_stage 3, zero_stage is {self.zero_stage}")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload 'optimizer' needs zero_stage 1, 2 or 3, zero_stage is 0")
        if self.overlap and self.tensor == 1:
            raise ValueError("overlap has an effect with a tensor degree above 1 only, tensor is 1")
        if self.compile is True and self.zero_stage == 3:
            raise ValueError(
                "compile gains nothing with zero_stage 3, whose gathering interrupts every compiled layer: "
                "set zero_stage to 0, 1 or 2, or compile to false"
            )
        return self


@dataclass(frozen=True)
class Degrees:
    """The size of each axis of the mesh. `world` is their product."""

    data: int
    sequence: int
    tensor: int

    @property
    def world(self) -> int:
        """Return the number of ranks."""
        return self.data * self.sequence * self.tensor

    def __str__(self) -> str:
        return f"data {self.data} x sequence {self.sequence} x tensor {self.tensor}"

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        """Return (data, sequence, tensor) of a rank. Tensor is innermost, then sequence."""
        rest, tensor = divmod(rank, self.tensor)
        data, sequence = divmod(rest, self.sequence)
        return data, sequence, tensor


def resolve_degrees(config: ParallelConfig, world: int) -> Degrees:
    """Return the degrees for a world of so many ranks. Raises `UserError` with all the numbers."""
    fixed = config.sequence * config.tensor
    asked = f"data {config.data} x sequence {config.sequence} x tensor {config.tensor}"
    if config.data == 0 or config.data < -1:
        raise UserError(f"parallel.data is {config.data}: give a positive degree, or -1 for what is left of the world")
    if config.data == -1:
        if world % fixed:
            raise UserError(
                f"parallel: sequence {config.sequence} x tensor {config.tensor} = {fixed} does not divide the world of "
                f"{world} ranks; use a world that is a multiple of {fixed}, or smaller degrees"
            )
        return Degrees(world // fixed, config.sequence, config.tensor)
    if config.data * fixed != world:
        raise UserError(
            f"parallel: {asked} = {config.data * fixed} ranks, but the world has {world}; "
            "change a degree, the world, or set parallel.data to -1"
        )
    return Degrees(config.data, config.sequence, config.tensor)


def node_warning(degrees: Degrees, ranks_per_node: int) -> str | None:
    """Return a warning where a tensor group spans nodes, whose links are far slower than those inside a node."""
    if degrees.tensor <= 1 or ranks_per_node % degrees.tensor == 0:
        return None
    return (
        f"tensor degree {degrees.tensor} does not divide the {ranks_per_node} ranks of a node: some tensor groups span "
        "nodes, and each layer's all-reduces then cross the network"
    )


def _rows_hint(model: ModelConfig, degrees: Degrees) -> str:
    """Say how an embedding can be split; one with other rows is another model, so checkpoints decide which way."""
    fits = max(t for t in range(1, degrees.tensor) if model.vocab_rows % t == 0 and _splits(model, degrees, t))
    return (
        f"in a run that begins, set model.vocab_multiple_of to {degrees.tensor} (with another name, if this one was "
        f"begun); one that goes on from a checkpoint keeps its {model.vocab_rows} rows, so there set parallel.tensor "
        f"to {fits}"
    )


def _splits(model: ModelConfig, degrees: Degrees, tensor: int) -> bool:
    try:
        cost_of(model.family).check_splits(model, replace(degrees, tensor=tensor))
    except UserError:
        return tensor == 1
    return True


def check_model_splits(model: ModelConfig, degrees: Degrees) -> None:
    """Raise `UserError` where the model's widths cannot be shared by the tensor and sequence ranks.

    Everything must divide: uneven shares would make some ranks wait for others in every layer.
    """
    cost_of(model.family).check_splits(model, degrees)
    t, s = degrees.tensor, degrees.sequence
    if t > 1 and model.adaptive is not None:
        raise UserError(
            f"the bands of model.adaptive cannot be split over {t} tensor ranks: set parallel.tensor to 1, or leave "
            "adaptive out"
        )
    if model.vocab_size is not None and model.vocab_rows % t:
        raise UserError(
            f"vocabulary rows {model.vocab_rows} is not a multiple of the tensor degree {t}: "
            f"{_rows_hint(model, degrees)}"
        )
    if model.context_length % s:
        raise UserError(
            f"context_length {model.context_length} is not a multiple of the sequence degree {s}: change one of them"
        )
