"""The optimizer and schedule sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.config.base import Section
from trainer.config.identity import Result
from trainer.config.span import Span, SpanField

PeakRate = Annotated[float, Field(gt=0)] | Literal["auto"]
Share = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Section):
    """AdamW unless said otherwise. `lr` is a number, or `auto`: the rule in trainer/plan/learning_rate.py."""

    name: Result[Literal["adamw", "sgd", "muon"]] = Field("adamw", description="muon: for matrices, AdamW for the rest")
    lr: Result[PeakRate] = Field("auto", description="at its peak; 'auto': the stated rule by size")
    lr_factor: Result[float] = Field(
        1.0,
        gt=0,
        description="times lr, the rule's too: a bracket about the rule is 0.5, 1 and 2",
        exclude_if=lambda value: value == 1,  # so that runs without it keep their identity
    )
    betas: Result[tuple[Share, Share]] = Field((0.9, 0.95), description="decay of AdamW's two moments")
    eps: Result[float] = Field(1e-8, gt=0, description="added to the root of AdamW's second moment")
    weight_decay: Result[float] = Field(0.1, ge=0, description="on matrices only, not on norms, biases and embeddings")
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


class ScheduleConfig(Section):
    """The learning rate over the run, as a share of its peak."""

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
