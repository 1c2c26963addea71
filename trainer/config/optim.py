"""The optimizer and schedule sections."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from trainer.config.base import Section, is_none
from trainer.config.conditional import ANY, Conditional
from trainer.config.identity import Execution, Result
from trainer.config.recipe import Recipe
from trainer.config.span import Count, Span, SpanField

PeakRate = Annotated[float, Field(gt=0)] | Literal["auto"]
Share = Annotated[float, Field(ge=0, lt=1)]


class Horizon(Section):
    """A learning rate that falls with the length of the run: times (its tokens / `tokens`)^-`exponent`."""

    tokens: Result[Count] = Field(gt=0, description="length of the run at which lr was tuned")
    exponent: Result[float] = Field(
        0.32, gt=0, lt=1, description="of the fall; 0.32 is that of Bjorck et al. 2024 (arXiv 2409.19913)"
    )


class BaseShape(Section):
    """The shape of the model at which learning rate, weight decay and initial values were tuned."""

    d_model: Result[int] = Field(gt=0, description="its width; all other widths are taken to grow with it")
    n_layers: Result[int | None] = Field(None, gt=0, description="its depth; for completep, mup leaves depth alone")
    head_dim: Result[int | None] = Field(None, gt=0, description="width of its heads; default: this model's own")


class OptimConfig(Section):
    """AdamW unless said otherwise. `lr` is a number, or `auto`: the rule in trainer/plan/learning_rate.py."""

    conditional: ClassVar = (
        Conditional(("muon_lr_factor", "muon_weight_decay"), {"name": ("muon",)}),
        Conditional(("eps",), {"name": ("adamw", "muon")}),
        Conditional(("recipe_reach",), {"recipe": ANY}),
        Conditional(("base",), {"parametrization": ("mup", "completep")}),
    )
    name: Result[Literal["adamw", "sgd", "muon"]] = Field("adamw", description="muon: for matrices, AdamW for the rest")
    lr: Result[PeakRate] = Field("auto", description="at its peak; 'auto': the stated rule by size")
    lr_factor: Result[float] = Field(
        1.0,
        gt=0,
        description="times lr, the rule's too: a bracket about the rule is 0.5, 1 and 2",
        exclude_if=lambda value: value == 1,  # so that runs without it keep their identity
    )
    lr_horizon: Result[Horizon | None] = Field(
        None, description="lr falls with the tokens of the run; default: it does not", exclude_if=is_none
    )
    recipe: Result[Recipe | None] = Field(
        None, description="file of 'escala sweep tune' whose law lr follows; leave lr out", exclude_if=is_none
    )
    recipe_reach: Execution[float] = Field(
        10.0,
        ge=1,
        description="factor by which N, D and batch may lie outside the range of the recipe's fit",
        exclude_if=lambda value: value == 10,  # so that runs without it keep their identity
    )
    parametrization: Result[Literal["standard", "mup", "completep"]] = Field(
        "standard",
        description="how initial values, rates, decay and eps follow width (mup) and depth (completep) from the base",
        exclude_if=lambda value: value == "standard",  # so that runs without it keep their identity
    )
    base: Result[BaseShape | None] = Field(
        None, description="the shape at which the settings were tuned, for mup and completep", exclude_if=is_none
    )
    betas: Result[tuple[Share, Share]] = Field(
        (0.9, 0.95), description="decay of AdamW's two moments; SGD's momentum is the first, Muon's the second"
    )
    eps: Result[float] = Field(1e-8, gt=0, description="added to the root of AdamW's second moment")
    weight_decay: Result[float] = Field(0.1, ge=0, description="on matrices only, not on norms, biases and embeddings")
    decay_follows_lr: Result[bool] = Field(
        True,
        description="weight decay is multiplied by the learning rate of the step; false: by its peak in every step",
        exclude_if=lambda value: value,  # so that runs without it keep their identity
    )
    muon_lr_factor: Result[float] = Field(
        1.0, gt=0, description="times lr, for the matrices that Muon updates", exclude_if=lambda value: value == 1
    )
    muon_weight_decay: Result[float | None] = Field(
        None, ge=0, description="of the matrices that Muon updates; default weight_decay", exclude_if=is_none
    )
    label_smoothing: Result[float] = Field(
        0.0, ge=0, lt=1, description="share of a target's probability spread over the vocabulary; never in evaluation"
    )
    z_loss: Result[float] = Field(
        0.0,
        ge=0,
        description="times the squared logarithm of the softmax's sum is added to the training loss (PaLM: 1e-4)",
        exclude_if=lambda value: value == 0,  # so that runs without it keep their identity
    )
    clip_norm: Result[float] = Field(1.0, ge=0, description="global gradient norm; 0 switches clipping off")

    @model_validator(mode="after")
    def _says_all(self) -> OptimConfig:
        self._check_recipe()
        if self.parametrization == "standard":
            return self
        if self.base is None:
            raise ValueError(f"parametrization {self.parametrization} needs base, the shape that was tuned: d_model")
        if (self.parametrization == "completep") != (self.base.n_layers is not None):
            said = "is missing" if self.base.n_layers is None else "has no effect with mup"
            raise ValueError(f"base.n_layers {said}: completep is of width and depth, mup of width alone")
        if self.name == "sgd":
            raise ValueError(f"the rules of {self.parametrization} are those of AdamW and Muon: name sgd has others")
        if self.lr == "auto" and self.recipe is None:
            raise ValueError(
                f"lr auto falls with the model's size, and {self.parametrization} keeps the rate of the base: give lr, "
                "the best rate of the base"
            )
        return self

    def _check_recipe(self) -> None:
        if self.recipe is None:
            return
        if self.lr != "auto" or self.lr_horizon is not None:
            other = "lr_horizon" if self.lr == "auto" else "lr"
            raise ValueError(f"recipe and {other} both say the learning rate: leave one of them out")
        if self.recipe.parametrization != self.parametrization:
            raise ValueError(
                f"the recipe was tuned with parametrization {self.recipe.parametrization}, not {self.parametrization}: "
                "their rates are not comparable; tune this sweep, or set the recipe's parametrization"
            )


class ScheduleConfig(Section):
    """The learning rate over the run, as a share of its peak."""

    conditional: ClassVar = (
        Conditional(("decay", "cooldown"), {"kind": ("wsd",)}),
        Conditional(("final_ratio",), {"kind": ("linear", "cosine", "wsd")}),
    )
    kind: Result[Literal["constant", "linear", "cosine", "inverse_sqrt", "wsd"]] = Field(
        "cosine", description="course after the warm-up; wsd: constant, then a cooldown (warmup-stable-decay)"
    )
    warmup: Result[SpanField] = Field(Span(2, "%"), description="linear rise from zero to the peak")
    decay: Result[SpanField] = Field(Span(20, "%"), description="length of the cooldown at the end, for wsd")
    cooldown: Result[Literal["linear", "1-sqrt"]] = Field(
        "linear",
        description="course of the cooldown, for wsd; 1-sqrt: 1 less the root of the share gone (Hagele et al. 2024)",
        exclude_if=lambda value: value == "linear",  # so that runs without it keep their identity
    )
    final_ratio: Result[float] = Field(
        0.1, ge=0, le=1, description="last learning rate over the peak, for linear, cosine, wsd"
    )
