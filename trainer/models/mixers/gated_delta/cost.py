"""Gated DeltaNet without torch: options, counts, roles, splits, memory.

Letters: D d_model, H heads, K = D / H their width, k kernel width, C tokens of a chunk.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from trainer.config.base import Section
from trainer.config.identity import Result
from trainer.models.common.kept import STATISTIC, Kept
from trainer.models.initial import Constant, InverseSoftplus, LogOfUniform, Uniform
from trainer.models.mixers.base import Flops, MixerCost, Parameters, StateSize
from trainer.models.roles import Role, linear
from trainer.plan.shape import CHUNK, MixerShape, Product


class GatedDeltaOptions(Section):
    """The options of `gated_delta`. Its heads are `n_heads`, each d_model / n_heads wide."""

    kernel: Result[int] = Field(4, gt=0, description="tokens that the convolution of queries, keys and values sees")


class GatedDeltaCost(MixerCost[GatedDeltaOptions]):
    """A memory that replaces what it holds for a key, and decays. Tensor ranks hold whole heads."""

    Options: ClassVar[type[Section]] = GatedDeltaOptions
    settings: ClassVar[frozenset[str]] = frozenset({"n_heads"})
    respects_documents: ClassVar[bool] = True

    def check(self) -> None:
        """Raise ValueError where heads do not divide the width."""
        if self.config.d_model % self.config.heads:
            raise ValueError(f"d_model {self.config.d_model} is not a multiple of n_heads {self.config.heads}")

    def parameters(self) -> Parameters:
        """Count the parameters of one layer. All heads have one scale of the norm after the recurrence."""
        D, H, k, bias = self.config.d_model, self.config.heads, self.options.kernel, int(self.config.bias)
        own = 5 * D * D + 2 * D * H + bias * (5 * D + 2 * H) + 3 * D * k + 2 * H + D // H
        return Parameters(own, whole=D // H + bias * D)

    def flops(self) -> Flops:
        """Count the FLOPs of one token: matrices, the convolution, and the chunked recurrence, which never grows."""
        D, H = self.config.d_model, self.config.heads
        return Flops(6 * (5 * D * D + 2 * D * H + 3 * D * self.options.kernel) + 3 * self._recurrence())

    def _recurrence(self) -> int:
        """Return the FLOPs of one token in a forward pass of the recurrence, a causal half of each chunk counted."""
        D, K = self.config.d_model, self.config.head_dim
        seen = (min(CHUNK, self.config.context_length) + 1) // 2
        return 2 * seen * (2 * D + 2 * D + D) + 2 * 3 * K * D  # scores twice, the system, and reading and writing

    def activations(self, kept: Kept) -> int:
        """Return the bytes of a token: convolution, gate and norm in the model's precision, the recurrence in float32.

        Five matrices of a chunk are kept for each head, and its states. Copies were counted on a CPU.
        """
        t, T = kept.parallel.tensor, self.config.context_length
        D, H, K, C = self.config.d_model // t, self.config.heads // t, self.config.head_dim, min(CHUNK, T)
        own = 9 * D + 3 * D * (self.options.kernel - 1) / T + 5 * D
        exact = 14 * D + H * (5 * C + 11) + K * D * (1 + 2 * (T > C)) / C
        return round(own * kept.value + 3 * D * kept.exact + exact * STATISTIC)

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        """Return the roles; initial values of decays and steps are Mamba-2's, as in the reference."""
        D, k = self.config.d_model, self.options.kernel
        return {
            **linear("qkv", std, D, split="column", parts=(D, D, D)),
            "conv": Role(Uniform(-(k**-0.5), k**-0.5), "vector", split="column", parts=(D, D, D)),
            **linear("strength", std, D, split="column", grows="heads"),
            **linear("dt", std, D, split="column", grows="heads"),
            "dt_bias": Role(InverseSoftplus(1e-3, 0.1), "vector", split="column"),
            "A_log": Role(LogOfUniform(1.0, 16.0), "vector", split="column"),
            **linear("gate", std, D, split="column"),
            "scale": Role(Constant(1.0), "vector", split="shared heads"),
            **linear("out", out_std, D, split="row"),
        }

    def shape(self) -> MixerShape:
        """Return what the time of a step depends on."""
        D, H, k = self.config.d_model, self.config.heads, self.options.kernel
        products = (Product(3 * D, D, "column"), Product(2 * H, D, "column"), Product(D, D, "column"))
        values = (2 + k) * 3 * D + 20 * D + 2 * H * CHUNK
        return MixerShape(
            (*products, Product(D, D, "row")), flops=self._recurrence(), values=values, fused_values=values // 2
        )

    def state_size(self) -> StateSize:
        """Return the inputs that the convolution still sees, and the memory."""
        D = self.config.d_model
        return StateSize(fixed=(self.options.kernel - 1) * 3 * D + D * self.config.head_dim)

    def shared_widths(self) -> dict[str, int]:
        """Return what tensor ranks share."""
        return {"n_heads": self.config.heads}

    def fp8_sides(self, tensor: int) -> dict[str, int]:
        """Return the sides of the matrices that a tensor rank multiplies in fp8, by name."""
        return {
            f"d_model / tensor {tensor}": self.config.d_model // tensor,
            f"n_heads / tensor {tensor}": self.config.heads // tensor,
        }
