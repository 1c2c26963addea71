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
from trainer.contract.errors import UserError
from trainer.models.registry import cost_of

SPANS = {  # settings that count steps by the tokens of a whole batch
    "schedule": ("warmup", "decay"),
    "evaluation": ("every",),
    "checkpoint": ("every", "keep_every"),
    "tracking": ("log_every", "norms_every"),
}


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

    @property
    def body_parameters(self) -> int:
        """The parameters of the body. No vocabulary changes them, so one that is not known yet is no matter."""
        model = self.model
        counted: int = cost_of(model.family).count_parameters(model.with_any_vocabulary()).body
        return counted

    @model_validator(mode="after")
    def _one_length(self) -> RunConfig:
        if (self.tokens is None) == (self.steps is None):
            raise ValueError("give the length of the run either as 'tokens' or as 'steps'")
        return self

    @model_validator(mode="after")
    def _follows_recipe(self) -> RunConfig:
        """Take batch and weight decay from the recipe, where it has their laws. Reading it again comes to the same."""
        from trainer.plan.length import total_tokens  # which reads runs

        recipe, reach = self.optim.recipe, self.optim.recipe_reach
        if recipe is None or (recipe.batch is None and recipe.weight_decay is None):
            return self
        if recipe.batch is not None and self.tokens is None:
            raise ValueError(
                "the batch of optim.recipe depends on the tokens of the run, and 'steps' makes these depend on the "
                "batch: give 'tokens', or take 'batch' out of the recipe"
            )
        sizes: dict[str, float] = {"N": self.body_parameters, "D": self.tokens or 0}
        if (batch := recipe.batch_at(sizes, reach, self.model.context_length)) is not None:
            self.__dict__["batch"] = self.batch.model_copy(update={"tokens_per_step": batch})  # as in _transferred
        sizes["batch"] = self.batch.tokens_per_step
        sizes["D"] = total_tokens(self)
        if (decay := recipe.weight_decay_at(sizes, reach)) is not None:
            self.__dict__["optim"] = self.optim.model_copy(update={"weight_decay": decay})
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
    def _batch_can_rise(self) -> RunConfig:
        warmup, context = self.batch.warmup, self.model.context_length
        if warmup is None:
            return self
        if self.data.order == "streams":
            raise ValueError(
                "batch.warmup changes how many lanes a step has, and data.order streams keeps them: drop one"
            )
        unit = context * 2**warmup.doublings
        if self.batch.tokens_per_step % unit:
            raise ValueError(
                f"batch.tokens_per_step {self.batch.tokens_per_step} cannot begin with a 2^{warmup.doublings}th of it "
                f"(batch.warmup.doublings {warmup.doublings}): take a multiple of {unit}, or fewer doublings"
            )
        if self.tokens is not None and warmup.tokens >= self.tokens:
            raise ValueError(
                f"batch.warmup.tokens {warmup.tokens} is not below the {self.tokens} tokens of the run: shorten it, or "
                "lengthen the run"
            )
        spans = {f"{name}.{key}": getattr(getattr(self, name), key) for name, keys in SPANS.items() for key in keys}
        if self.schedule.kind != "wsd":
            del spans["schedule.decay"]
        if counted := [name for name, span in spans.items() if span is not None and span.unit == "tokens"]:
            raise ValueError(
                f"{' and '.join(counted)} in tokens would count whole batches, and batch.warmup makes the first ones "
                "smaller: give steps or %"
            )
        return self

    @model_validator(mode="after")
    def _carries_along_streams(self) -> RunConfig:
        if self.model.carries and self.data.order != "streams":
            raise ValueError(
                "model.carry takes what a lane has read into its next step, and with data.order "
                f"{self.data.order} that is another text: set data.order to streams"
            )
        return self

    @model_validator(mode="after")
    def _compiles(self) -> RunConfig:
        from trainer.plan.compiling import check_compile  # which reads runs

        try:
            check_compile(self)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _fp8_fits(self) -> RunConfig:
        if self.precision == "fp8" and self.parallel.overlap:
            raise ValueError("precision fp8 has products of its own: set parallel.overlap to false")
        if self.precision == "fp8" and self.device == "cpu":
            raise ValueError("precision fp8 needs a Hopper GPU (compute capability 9.0 or above), but device is cpu")
        return self
