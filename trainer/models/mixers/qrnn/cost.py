"""A quasi-recurrent layer without torch: options, counts, roles, splits, memory. Letters: D d_model, k kernel width."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from trainer.config.base import Section
from trainer.config.identity import Result
from trainer.models.common.kept import Kept
from trainer.models.mixers.base import Flops, MixerCost, Parameters, StateSize
from trainer.models.roles import Role, linear
from trainer.plan.shape import MixerShape, Product


class QrnnOptions(Section):
    """The options of `qrnn`."""

    kernel: Result[int] = Field(2, gt=0, description="tokens that the gates see: this one and those before it")


class QrnnCost(MixerCost[QrnnOptions]):
    """Convolutional gates, a recurrence by channel (Bradbury et al. 2017), a projection. Ranks share channels."""

    Options: ClassVar[type[Section]] = QrnnOptions
    respects_documents: ClassVar[bool] = True

    def parameters(self) -> Parameters:
        """Count the parameters of one layer."""
        D, k = self.config.d_model, self.options.kernel
        return Parameters(3 * D * k * D + D * D + int(self.config.bias) * 4 * D)

    def flops(self) -> Flops:
        """Count the FLOPs of one token."""
        D, k = self.config.d_model, self.options.kernel
        return Flops(6 * (3 * D * k * D + D * D))

    def activations(self, kept: Kept) -> int:
        """Return the bytes of a token: the window in place of the input, gates, sums (float32), output."""
        D, k, t = self.config.d_model, self.options.kernel, kept.parallel.tensor
        return (k - 1) * D * kept.value + D // t * (5 * kept.value + 2 * kept.exact)

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        """Return the roles. A sum over k tokens has k times the variance, which the initial values make up for."""
        D, k = self.config.d_model, self.options.kernel
        return {
            **linear("conv", std / k**0.5, k * D, split="column", parts=(D, D, D)),
            **linear("out", out_std, D, split="row"),
        }

    def shape(self) -> MixerShape:
        """Return what the time of a step depends on: the window is copied, and the scan passes three times."""
        D, k = self.config.d_model, self.options.kernel
        return MixerShape(
            (Product(3 * D, k * D, "column"), Product(D, D, "row")),
            values=(1 + k) * D + 20 * D,
            fused_values=(1 + k) * D + 12 * D,
        )

    def state_size(self) -> StateSize:
        """Return the inputs that the next token still sees, and the sums."""
        return StateSize(fixed=self.options.kernel * self.config.d_model)

    def shared_widths(self) -> dict[str, int]:
        """Return the channels."""
        return {"d_model": self.config.d_model}

    def fp8_sides(self, tensor: int) -> dict[str, int]:
        """Return the sides of the matrices that a tensor rank multiplies in fp8."""
        return {f"d_model / tensor {tensor}": self.config.d_model // tensor}
