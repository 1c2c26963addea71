"""An LSTM without torch: counts, roles, memory. Letters: D d_model, which is the width of the hidden state too."""

from __future__ import annotations

from typing import ClassVar

from trainer.config.choice import NoOptions
from trainer.models.common.kept import Kept
from trainer.models.initial import Constant, Normal, Orthogonal, Stacked
from trainer.models.mixers.base import Flops, MixerCost, Parameters, StateSize
from trainer.models.roles import Role, linear
from trainer.plan.shape import MixerShape, Product


class LstmCost(MixerCost[NoOptions]):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) and a projection. Every gate sees the whole state."""

    respects_documents: ClassVar[bool] = True

    def parameters(self) -> Parameters:
        """Count the parameters of one layer. The gates have biases always, so that a forget gate can begin open."""
        D = self.config.d_model
        own = 4 * D * D + 4 * D * D + 4 * D + D * D + int(self.config.bias) * D
        return Parameters(own, whole=own)

    def flops(self) -> Flops:
        """Count the FLOPs of one token."""
        return Flops(6 * 9 * self.config.d_model**2)

    def activations(self, kept: Kept) -> int:
        """Return the bytes of a token.

        A CPU's fused kernel (oneDNN) keeps a workspace of 15 widths a token and 14 a sequence, measured, besides the
        output and a copy of the input. For cuDNN this counts gates, cell and output; it was not measured.
        """
        widths = 6.0 if kept.gpu else 17.25 + 14 / self.config.context_length
        return round(widths * self.config.d_model * kept.value)

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        """Return the roles. Recurrent matrices begin orthogonal, and forget gates open (Jozefowicz et al. 2015)."""
        D = self.config.d_model
        biases = Stacked(((D, Constant(0.0)), (D, Constant(1.0)), (2 * D, Constant(0.0))))
        return {
            "input": Role(Normal(std), "matrix", decay=True, parts=(D, D, D, D), fan_in=D),
            "recurrent": Role(Orthogonal(), "matrix", decay=True, parts=(D, D, D, D), fan_in=D),
            "bias": Role(biases, "vector", parts=(D, D, D, D)),
            **linear("out", out_std, D),
        }

    def shape(self) -> MixerShape:
        """Return what the time of a step depends on: the recurrent product waits for the token before."""
        D = self.config.d_model
        products = (Product(4 * D, D), Product(4 * D, D), Product(D, D))
        return MixerShape(products, values=16 * D, fused_values=12 * D, serial_kernels=3)

    def state_size(self) -> StateSize:
        """Return the size of the hidden state and the cell."""
        return StateSize(fixed=2 * self.config.d_model)
