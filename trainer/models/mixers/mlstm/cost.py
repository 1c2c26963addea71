"""An mLSTM without torch: counts, roles, splits, memory.

Letters: D d_model, H heads, K = D / H their width, C tokens of a chunk.
"""

from __future__ import annotations

from typing import ClassVar

from trainer.config.choice import NoOptions
from trainer.models.common.kept import STATISTIC, Kept
from trainer.models.initial import Constant, Spaced
from trainer.models.mixers.base import Flops, MixerCost, Parameters, StateSize
from trainer.models.roles import Role, linear
from trainer.plan.shape import CHUNK, MixerShape, Product


class MlstmCost(MixerCost[NoOptions]):
    """A matrix memory with exponential input gates. Tensor ranks hold whole heads."""

    settings: ClassVar[frozenset[str]] = frozenset({"n_heads"})
    respects_documents: ClassVar[bool] = True

    def check(self) -> None:
        """Raise ValueError where heads do not divide the width."""
        if self.config.d_model % self.config.heads:
            raise ValueError(f"d_model {self.config.d_model} is not a multiple of n_heads {self.config.heads}")

    def parameters(self) -> Parameters:
        """Count the parameters of one layer. The gates of heads have biases always."""
        D, H, bias = self.config.d_model, self.config.heads, int(self.config.bias)
        return Parameters(5 * D * D + 2 * H * (D + 1) + bias * 5 * D + D, whole=bias * D)

    def flops(self) -> Flops:
        """Count the FLOPs of one token: matrices, and the chunked recurrence, which never grows."""
        D, H = self.config.d_model, self.config.heads
        return Flops(6 * (5 * D * D + 2 * D * H) + 3 * self._recurrence())

    def _recurrence(self) -> int:
        """Return the FLOPs of one token in a forward pass of the recurrence, a causal half of each chunk counted."""
        D, K = self.config.d_model, self.config.head_dim
        seen = (min(CHUNK, self.config.context_length) + 1) // 2
        return 2 * seen * 2 * D + 2 * 2 * K * D

    def activations(self, kept: Kept) -> int:
        """Return the bytes of a token: gate and norm in the model's precision, the recurrence in float32.

        Four matrices of a chunk are kept for each head, and its states. Copies were counted on a CPU.
        """
        t, T = kept.parallel.tensor, self.config.context_length
        D, H, K, C = self.config.d_model // t, self.config.heads // t, self.config.head_dim, min(CHUNK, T)
        exact = 9 * D + H * (4 * C + 15) + K * D * (1 + 4 * (T > C)) / C
        return round(4 * D * kept.value + 3 * D * kept.exact + exact * STATISTIC)

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        """Return the roles. Forget gates begin nearly open, and differently for each head, as in the reference."""
        D = self.config.d_model
        return {
            **linear("qkv", std, D, split="column", parts=(D, D, D)),
            **linear("into", std, D, split="column", grows="heads"),
            **linear("forget", std, D, split="column", grows="heads"),
            "forget.bias": Role(Spaced(3.0, 6.0), "vector", split="column"),
            **linear("gate", std, D, split="column"),
            "scale": Role(Constant(1.0), "vector", split="column"),
            **linear("out", out_std, D, split="row"),
        }

    def shape(self) -> MixerShape:
        """Return what the time of a step depends on."""
        D, H = self.config.d_model, self.config.heads
        products = (Product(3 * D, D, "column"), Product(2 * H, D, "column"), Product(D, D, "column"))
        values = 20 * D + 3 * H * CHUNK
        return MixerShape(
            (*products, Product(D, D, "row")), flops=self._recurrence(), values=values, fused_values=values // 2
        )

    def state_size(self) -> StateSize:
        """Return the size of the memory, its sum of keys, and its exponent."""
        D, H = self.config.d_model, self.config.heads
        return StateSize(fixed=D * self.config.head_dim + D + H)

    def shared_widths(self) -> dict[str, int]:
        """Return what tensor ranks share."""
        return {"n_heads": self.config.heads}

    def fp8_sides(self, tensor: int) -> dict[str, int]:
        """Return the sides of the matrices that a tensor rank multiplies in fp8, by name."""
        return {
            f"d_model / tensor {tensor}": self.config.d_model // tensor,
            f"n_heads / tensor {tensor}": self.config.heads // tensor,
        }
