"""A minimal gated recurrence without torch: counts, roles, splits, memory. Letters: D d_model."""

from __future__ import annotations

from typing import ClassVar

from trainer.config.choice import NoOptions
from trainer.models.common.kept import Kept
from trainer.models.mixers.base import Flops, MixerCost, Parameters, StateSize
from trainer.models.roles import Role, linear
from trainer.plan.shape import MixerShape, Product


class MinGruCost(MixerCost[NoOptions]):
    """A gated recurrence whose gates see the input alone (Feng et al. 2024), and a projection. Ranks share channels."""

    respects_documents: ClassVar[bool] = True

    def parameters(self) -> Parameters:
        """Count the parameters of one layer."""
        D = self.config.d_model
        return Parameters(2 * D * D + D * D + int(self.config.bias) * 3 * D)

    def flops(self) -> Flops:
        """Count the FLOPs of one token."""
        return Flops(6 * 3 * self.config.d_model**2)

    def activations(self, kept: Kept) -> int:
        """Return the bytes of a token: gate and candidate, what the gate becomes twice, and the sums (float32)."""
        channels = self.config.d_model // kept.parallel.tensor
        return channels * (5 * kept.value + 2 * kept.exact)

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        """Return the roles."""
        D = self.config.d_model
        return {
            **linear("into", std, D, split="column", parts=(D, D)),
            **linear("out", out_std, D, split="row"),
        }

    def shape(self) -> MixerShape:
        """Return what the time of a step depends on: gates are read and written, and the scan passes three times."""
        D = self.config.d_model
        return MixerShape((Product(2 * D, D, "column"), Product(D, D, "row")), values=20 * D, fused_values=12 * D)

    def state_size(self) -> StateSize:
        """Return the size of the sums."""
        return StateSize(fixed=self.config.d_model)

    def shared_widths(self) -> dict[str, int]:
        """Return the channels."""
        return {"d_model": self.config.d_model}

    def fp8_sides(self, tensor: int) -> dict[str, int]:
        """Return the sides of the matrices that a tensor rank multiplies in fp8."""
        return {f"d_model / tensor {tensor}": self.config.d_model // tensor}
