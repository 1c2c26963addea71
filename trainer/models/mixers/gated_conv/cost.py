"""A gated convolution without torch: options, counts, roles, splits, memory. Letters: D d_model, k kernel width."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from trainer.config.base import Section
from trainer.config.identity import Result
from trainer.models.common.kept import Kept
from trainer.models.mixers.base import Flops, MixerCost, Parameters, StateSize
from trainer.models.roles import Role, linear
from trainer.plan.shape import MixerShape, Product


class GatedConvOptions(Section):
    """The options of `gated_conv`."""

    kernel: Result[int] = Field(4, gt=0, description="tokens that a convolution sees: this one and those before it")


class GatedConvCost(MixerCost[GatedConvOptions]):
    """A gated linear unit over the last k inputs (Dauphin et al. 2017), and a projection. Ranks share the channels."""

    Options: ClassVar[type[Section]] = GatedConvOptions
    respects_documents: ClassVar[bool] = True

    def parameters(self) -> Parameters:
        """Count the parameters of one layer."""
        D, k = self.config.d_model, self.options.kernel
        return Parameters(2 * D * k * D + D * D + int(self.config.bias) * 3 * D)

    def flops(self) -> Flops:
        """Count the FLOPs of one token."""
        D, k = self.config.d_model, self.options.kernel
        return Flops(6 * (2 * D * k * D + D * D))

    def activations(self, kept: Kept) -> int:
        """Return the bytes of a token: the window in place of the input, values and gates, and their product."""
        D, k, t = self.config.d_model, self.options.kernel, kept.parallel.tensor
        return ((k - 1) * D + 3 * D // t) * kept.value

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        """Return the roles. A sum over k tokens has k times the variance, which the initial values make up for."""
        D, k = self.config.d_model, self.options.kernel
        return {
            **linear("conv", std / k**0.5, k * D, split="column", parts=(D, D)),
            **linear("out", out_std, D, split="row"),
        }

    def shape(self) -> MixerShape:
        """Return what the time of a step depends on: the window is copied, the gate reads two values and writes one."""
        D, k = self.config.d_model, self.options.kernel
        values = (1 + k) * D + 3 * D
        return MixerShape(
            products=(Product(2 * D, k * D, "column"), Product(D, D, "row")), values=values, fused_values=values
        )

    def state_size(self) -> StateSize:
        """Return the inputs that the next token still sees."""
        return StateSize(fixed=(self.options.kernel - 1) * self.config.d_model)

    def shared_widths(self) -> dict[str, int]:
        """Return the channels."""
        return {"d_model": self.config.d_model}

    def fp8_sides(self, tensor: int) -> dict[str, int]:
        """Return the sides of the matrices that a tensor rank multiplies in fp8."""
        return {f"d_model / tensor {tensor}": self.config.d_model // tensor}
