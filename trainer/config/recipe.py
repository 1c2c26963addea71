"""A recipe: the laws of the best settings in parameters, tokens and batch that `escala sweep tune` fitted.

A run names its file as `optim.recipe`; the resolved configuration holds what the file says, so that it is complete on
any machine.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from trainer.config.base import Section, is_none
from trainer.config.identity import Result
from trainer.contract.errors import UserError

SizeName = Literal["N", "D", "batch"]
Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
DIGITS = 6  # of a setting that a recipe gives: the last ones of a power differ between machines
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
    powers: Result[dict[SizeName, float]] = Field(description="of what varied in the tuned sizes, or a rule says")
    intervals: Result[dict[SizeName, tuple[float, float]]] = Field(description="95 %, of powers that were fitted")
    curvature: Result[str] = Field("", description="whether the optimum is log-linear over these sizes")
    sizes: Result[tuple[TunedSize, ...]] = Field(min_length=2, description="that were tuned")

    def fitted(self, name: str) -> tuple[float, float]:
        """Return the range of N, D or batch to which the law was fitted."""
        values = [getattr(size, name) for size in self.sizes if not size.problem]
        return min(values), max(values)

    def at(self, sizes: dict[str, float], reach: float, of: str = "lr") -> float:
        """Return the value at these N, D and batch.

        Raises UserError where one of them is outside the range of the fit by more than a factor of `reach`; `of` is
        what the law is of.
        """
        for name, value in sizes.items():
            low, high = self.fitted(name)
            beyond = max(value / high, low / value)
            if beyond > reach * (1 + 1e-9):
                raise UserError(
                    f"{of} of optim.recipe was fitted to {low:.4g} to {high:.4g} {UNITS[name]}, and {value:.4g} is "
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
    batch: RecipeLaw | None = Field(
        None, description="law of the batch in N and D, in tokens a step", exclude_if=is_none
    )
    weight_decay: RecipeLaw | None = Field(None, description="law of weight decay", exclude_if=is_none)

    @property
    def laws(self) -> dict[str, RecipeLaw]:
        """Return the laws that the recipe has, by what they are of."""
        each = {"lr": self.lr, "batch": self.batch, "weight_decay": self.weight_decay}
        return {name: law for name, law in each.items() if law is not None}

    def batch_at(self, sizes: dict[str, float], reach: float, context_length: int) -> int | None:
        """Return the tokens of a step at these N and D: whole sequences, of which four binary digits count.

        So many ranks can share them, and from 8 sequences up the batch is within 6.3 % of the law. None where the
        recipe has no law of it.
        """
        if self.batch is None:
            return None
        sequences = max(self.batch.at(sizes, reach, "batch") / context_length, 1.0)
        unit = 1 << max(math.floor(math.log2(sequences)) - 3, 0)
        return max(round(sequences / unit), 1) * unit * context_length

    def weight_decay_at(self, sizes: dict[str, float], reach: float) -> float | None:
        """Return the weight decay at these N, D and batch; None where the recipe has no law of it."""
        if self.weight_decay is None:
            return None
        return float(f"{self.weight_decay.at(sizes, reach, 'weight_decay'):.{DIGITS}g}")
