"""The shape from which settings are transferred to other widths and depths (docs/transfer.md)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.config.base import Section
from trainer.config.identity import Result

Rule = Literal["mup", "completep"]


class BaseShape(Section):
    """The shape of the model at which learning rate, weight decay and initial values were tuned."""

    d_model: Result[int] = Field(gt=0, description="its width; all other widths are taken to grow with it")
    n_layers: Result[int | None] = Field(None, gt=0, description="its depth; for completep, mup leaves depth alone")
    head_dim: Result[int | None] = Field(None, gt=0, description="width of its heads; default: this model's own")


class Transfer(Section):
    """The rule and the base of a model, which its initial values and its forward pass depend on.

    It follows from `optim.parametrization` and `optim.base`, and is stored with the model so that whoever reads a
    checkpoint computes what was trained.
    """

    rule: Result[Rule] = Field(description="mup or completep")
    d_model: Result[int] = Field(gt=0, description="width of the base")
    n_layers: Result[int | None] = Field(None, gt=0, description="depth of the base; none where the rule is of width")
    head_dim: Result[int | None] = Field(None, gt=0, description="width of the base's heads; none: this model's own")
