"""RunConfig: everything that determines one training run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.config.base import Section
from trainer.config.data import DataConfig
from trainer.config.identity import Execution, Result
from trainer.config.model import AnyModel, Transfer
from trainer.config.names import Name
from trainer.config.optim import OptimConfig, ScheduleConfig
from trainer.config.parallel import ParallelConfig
from trainer.config.sections import (
    BatchConfig,
    CheckpointConfig,
    EvaluationConfig,
    GuardConfig,
    TrackingConfig,
)
from trainer.config.span import Count


class RunConfig(Section):
    """One run. Length is given in tokens or in steps, not both."""

    name: Execution[Name] = Field("run", description="of the run directory, under --runs")
    seed: Result[int] = Field(0, ge=0, description="of initial values, dropout, and the data order without data.seed")
    model: AnyModel
    data: DataConfig
    batch: BatchConfig
    tokens: Result[Count | None] = Field(None, gt=0, description="length of the run in tokens")
    steps: Result[Count | None] = Field(None, gt=0, description="length of the run in optimizer steps")
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    parallel: ParallelConfig = ParallelConfig()
    skip_steps: Result[tuple[str, ...]] = Field(
        (), description="stretches of the data order to leave out, such as 1200:1210"
    )
    precision: Result[Literal["auto", "fp32", "bf16", "fp8"]] = Field(
        "auto", description="auto: bf16 on a GPU, fp32 on a CPU; fp8: as bf16, the blocks multiply in fp8 (Hopper GPUs)"
    )
    device: Execution[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: a GPU where there is one")
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    guard: GuardConfig = GuardConfig()

    @property
    def order_seed(self) -> int:
        """The seed of the data order."""
        return self.seed if self.data.seed is None else self.data.seed

    @model_validator(mode="after")
    def _one_length(self) -> RunConfig:
        if (self.tokens is None) == (self.steps is None):
            raise ValueError("give the length of the run either as 'tokens' or as 'steps'")
        return self

    @model_validator(mode="after")
    def _transferred(self) -> RunConfig:
        """Tell the model its base: the forward pass and the initial values depend on it."""
        base, model = self.optim.base, self.model
        wanted = None if base is None else Transfer(rule=self.optim.parametrization, **base.model_dump())
        if model.transfer not in (None, wanted):
            raise ValueError("model.transfer follows from optim.parametrization and optim.base: leave it out")
        if wanted is not None:
            model = model.model_copy(update={"transfer": wanted})
            model.check_transfer()
            self.__dict__["model"] = model  # a section is frozen once it was read; this is part of reading it
        return self

    @model_validator(mode="after")
    def _carries_along_streams(self) -> RunConfig:
        if self.model.carries and self.data.order != "streams":
            raise ValueError(
                "model.carry takes what a lane has read into its next step, and with data.order "
                f"{self.data.order} that is another text: set data.order to streams"
            )
        if self.model.carries and self.parallel.compile is True:
            raise ValueError(
                "model.carry hands states from block to block, which is not compiled: set parallel.compile to false"
            )
        return self

    @model_validator(mode="after")
    def _hears_blocks(self) -> RunConfig:
        if self.tracking.activations and self.parallel.compile is True:
            raise ValueError(
                "tracking.activations listens to blocks, and compiled ones cannot be listened to: set one to false"
            )
        return self

    @model_validator(mode="after")
    def _fp8_fits(self) -> RunConfig:
        if self.precision == "fp8" and (self.parallel.overlap or self.parallel.compile is True):
            raise ValueError(
                "precision fp8 has products of its own: set parallel.overlap and parallel.compile to false"
            )
        if self.precision == "fp8" and self.device == "cpu":
            raise ValueError("precision fp8 needs a Hopper GPU (compute capability 9.0 or above), but device is cpu")
        return self
