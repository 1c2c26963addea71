"""The mixer of docs/extending.md, run from the page, as a module that ranks can import."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from tests.conftest import ROOT
from trainer.models.common.kept import Kept
from trainer.models.mixers.base import Flops, Parameters
from trainer.models.mixers.registry import MIXERS, Mixer
from trainer.models.roles import Role, linear

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
(EXAMPLE,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "class Ema(" in code]
exec(compile(EXAMPLE, "docs/extending.md: A mixer", "exec"), globals())

TOY = Mixer("ema", cost="tests.unit.toy_mixer:EmaCost", module="tests.unit.toy_mixer:Ema")


class GainedCost(EmaCost):  # type: ignore[name-defined]  # noqa: F821
    """The moving average times a gain for each token, which each tensor rank computes for its own channels."""

    def parameters(self) -> Parameters:
        count, own = super().parameters(), self.config.d_model + int(self.config.bias)
        return Parameters(count.own + own, whole=own)

    def flops(self) -> Flops:
        return Flops(super().flops().matrices + 6 * self.config.d_model)

    def activations(self, kept: Kept) -> int:  # the gain, and what it is multiplied with
        kept_more: int = super().activations(kept) + self.config.d_model // kept.parallel.tensor * kept.value
        return kept_more + kept.value

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        return {**super().roles(std, out_std), **linear("gain", std, self.config.d_model, split="shared outputs")}


class Gained(Ema):  # type: ignore[name-defined]  # noqa: F821
    """See `GainedCost`."""

    def __init__(self, config: Any, options: Any, layer: int) -> None:
        super().__init__(config, options, layer)
        self.gain = nn.Linear(config.d_model, 1, bias=config.bias)

    def mixed(self, x: Tensor, sums: Tensor, gate: Tensor) -> Tensor:
        mixed: Tensor = super().mixed(x, sums, gate) * (1 + self.gain(x))
        return mixed


GAINED = Mixer("gained", cost="tests.unit.toy_mixer:GainedCost", module="tests.unit.toy_mixer:Gained")


def register() -> None:
    """Make the toys known by their names in this process."""
    MIXERS["ema"], MIXERS["gained"] = TOY, GAINED
