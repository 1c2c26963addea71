"""A dilated convolution without torch: options, counts, roles, splits, memory. Letters: D d_model, k kernel width."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from trainer.config.base import Section
from trainer.config.identity import Result
from trainer.models.common.kept import Kept
from trainer.models.mixers.base import Flops, MixerCost, Parameters, StateSize
from trainer.models.roles import Role, linear
from trainer.plan.shape import MixerShape, Product


class TemporalConvOptions(Section):
    """The options of `temporal_conv`."""

    kernel: Result[int] = Field(3, gt=0, description="tokens that a convolution sees: this one and those before it")
    cycle: Result[int] = Field(
        8, gt=0, le=16, description="layers over which tokens lie 1, 2, 4, ... apart, before it begins again at 1"
    )

    def dilation(self, layer: int) -> int:
        """Return how far apart the tokens lie that a layer sees."""
        dilation: int = 2 ** (layer % self.cycle)
        return dilation


class TemporalConvCost(MixerCost[TemporalConvOptions]):
    """A dilated causal convolution (Bai et al. 2018) and a projection. Ranks share the channels."""

    Options: ClassVar[type[Section]] = TemporalConvOptions
    respects_documents: ClassVar[bool] = True

    def parameters(self) -> Parameters:
        """Count the parameters of one layer."""
        D, k = self.config.d_model, self.options.kernel
        return Parameters(D * k * D + D * D + int(self.config.bias) * 2 * D)

    def flops(self) -> Flops:
        """Count the FLOPs of one token."""
        D, k = self.config.d_model, self.options.kernel
        return Flops(6 * (D * k * D + D * D))

    def activations(self, kept: Kept) -> int:
        """Return the bytes of a token: the window in place of the input, and what the convolution gives."""
        D, k, t = self.config.d_model, self.options.kernel, kept.parallel.tensor
        return ((k - 1) * D + D // t) * kept.value

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        """Return the roles. A sum over k tokens has k times the variance, which the initial values make up for."""
        D, k = self.config.d_model, self.options.kernel
        return {
            **linear("conv", std / k**0.5, k * D, split="column"),
            **linear("out", out_std, D, split="row"),
        }

    def shape(self) -> MixerShape:
        """Return what the time of a step depends on: the window is copied, values are read and written once."""
        D, k = self.config.d_model, self.options.kernel
        values = (1 + k) * D + 2 * D
        return MixerShape(
            products=(Product(D, k * D, "column"), Product(D, D, "row")), values=values, fused_values=values
        )

    def state_size(self) -> StateSize:
        """Return the inputs that the next token still sees."""
        layers = [layer for layer, mixer in enumerate(self.config.mixers) if mixer.options == self.options]
        furthest = max(self.options.dilation(layer) for layer in layers)
        return StateSize(fixed=(self.options.kernel - 1) * furthest * self.config.d_model)

    def shared_widths(self) -> dict[str, int]:
        """Return the channels."""
        return {"d_model": self.config.d_model}

    def fp8_sides(self, tensor: int) -> dict[str, int]:
        """Return the sides of the matrices that a tensor rank multiplies in fp8."""
        return {f"d_model / tensor {tensor}": self.config.d_model // tensor}
