"""A recipe: the law of the best learning rate in parameters, tokens and batch that `escala sweep tune` fitted.

A run names its file as `optim.recipe`; the resolved configuration holds what the file says, so that it is complete on
any machine.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from trainer.config.base import Section
from trainer.config.identity import Result
from trainer.contract.errors import UserError

Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
UNITS = {"N": "parameters of the body", "D": "tokens", "batch": "tokens a step"}


class TunedSize(Section):
    """The best value at one size, with its 95 % interval, and of how many runs."""

    N: Result[float] = Field(gt=0, description="parameters of the body")
    D: Result[float] = Field(gt=0, description="tokens")
    batch: Result[float] = Field(gt=0, description="tokens a step")
    best: Result[float] = Field(gt=0, description="the value of least expected loss")
    interval: Result[Range] = Field(description="95 %, of the best value")
    curvature: Result[float] = Field(ge=0, description="rise of log loss, for one octave off the best")
    runs: Result[int] = Field(gt=0, description="trained for it")
    problem: Result[str] = Field("", description="why the law leaves this size out; empty: it does not")


class RecipeLaw(Section):
    """value * (N / N_at)^power_N and the same of D and batch, with the sizes that it was fitted to."""

    value: Result[float] = Field(gt=0, description="at N_at, D_at and batch_at")
    N_at: Result[float] = Field(gt=0, description="parameters of the body")
    D_at: Result[float] = Field(gt=0, description="tokens")
    batch_at: Result[float] = Field(gt=0, description="tokens a step")
    powers: Result[dict[Literal["N", "D", "batch"], float]] = Field(description="of what varied in the tuned sizes")
    intervals: Result[dict[Literal["N", "D", "batch"], tuple[float, float]]] = Field(description="95 %, of powers")
    curvature: Result[str] = Field("", description="whether the optimum is log-linear over these sizes")
    sizes: Result[tuple[TunedSize, ...]] = Field(min_length=2, description="that were tuned")

    def fitted(self, name: str) -> tuple[float, float]:
        """Return the range of N, D or batch to which the law was fitted."""
        values = [getattr(size, name) for size in self.sizes if not size.problem]
        return min(values), max(values)

    def at(self, sizes: dict[str, float], reach: float) -> float:
        """Return the value at these N, D and batch.

        Raises UserError where one of them is outside the range of the fit by more than a factor of `reach`.
        """
        for name, value in sizes.items():
            low, high = self.fitted(name)
            beyond = max(value / high, low / value)
            if beyond > reach * (1 + 1e-9):
                raise UserError(
                    f"optim.recipe was fitted to {low:.4g} to {high:.4g} {UNITS[name]}, and {value:.4g} is "
                    f"{beyond:.3g} times outside, more than optim.recipe_reach {reach:g}: tune a size nearer to it "
                    f"with 'escala sweep tune', or set optim.recipe_reach={math.ceil(beyond)} to extrapolate"
                )
        scale = [(sizes[name] / getattr(self, f"{name}_at")) ** power for name, power in self.powers.items()]
        return float(self.value * math.prod(scale))

    @property
    def formula(self) -> str:
        """Write the law with its numbers: 0.0123 (N / 2.5e+04)^-0.41."""
        parts = [f"({name} / {getattr(self, f'{name}_at'):.3g})^{power:.3g}" for name, power in self.powers.items()]
        return " ".join([f"{self.value:.3g}", *parts])


class Recipe(Section):
    """What tuning found, and what it cost."""

    format: Result[Literal[1]] = Field(1, description="of this file")
    sweep: Result[str] = Field(description="that was tuned")
    kind: Result[str] = Field("", description="of the model that was tuned: its family or mixers")
    parametrization: Result[str] = Field("standard", description="of the runs that were tuned")
    flops: Result[float] = Field(0.0, ge=0, description="that tuning cost")
    share: Result[float] = Field(0.0, ge=0, description="of the sweep's FLOPs")
    lr: RecipeLaw
