"""Mamba-2 without torch: options, counts, roles, splits, memory.

Letters: D d_model, E inner width, H heads, P width of a head, N state, k kernel width, C tokens of a chunk.
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


class Mamba2Options(Section):
    """The options of `mamba2`. Its heads are `n_heads`, each expand x d_model / n_heads wide."""

    state: Result[int] = Field(64, gt=0, description="values that a head keeps for each of its channels")
    expand: Result[int] = Field(2, gt=0, description="inner width over d_model")
    kernel: Result[int] = Field(4, gt=0, description="tokens that the convolution before the recurrence sees")
    norm_groups: Result[int | None] = Field(
        None, gt=0, description="groups of the norm after it; default one for each head; published models have 1"
    )


class Mamba2Cost(MixerCost[Mamba2Options]):
    """A state-space model with a scalar decay for each head. Tensor ranks hold whole heads."""

    Options: ClassVar[type[Section]] = Mamba2Options
    settings: ClassVar[frozenset[str]] = frozenset({"n_heads"})
    respects_documents: ClassVar[bool] = True

    @property
    def inner(self) -> int:
        """E."""
        width: int = self.options.expand * self.config.d_model
        return width

    def check(self) -> None:
        """Raise ValueError where heads or groups do not divide the inner width."""
        for name, parts in (("n_heads", self.config.heads), ("norm_groups", self.options.norm_groups or 1)):
            if self.inner % parts:
                raise ValueError(f"mamba2: expand x d_model = {self.inner} is not a multiple of {name} {parts}")

    def parameters(self) -> Parameters:
        """Count the parameters of one layer."""
        D, E, H, N, k = self.config.d_model, self.inner, self.config.heads, self.options.state, self.options.kernel
        bias = int(self.config.bias)
        shared = D * 2 * N + bias * 2 * N + 2 * N * (k + 1)
        own = D * (2 * E + H) + bias * (2 * E + H) + E * (k + 1) + 3 * H + E + E * D + bias * D
        return Parameters(own + shared, whole=shared + bias * D)

    def flops(self) -> Flops:
        """Count the FLOPs of one token: matrices, the convolution, and the chunked recurrence, which never grows."""
        D, E, H, N, k = self.config.d_model, self.inner, self.config.heads, self.options.state, self.options.kernel
        matrices = 6 * (D * (2 * E + 2 * N + H) + E * D + (E + 2 * N) * k)
        return Flops(matrices + 3 * self._recurrence())

    def _recurrence(self) -> int:
        """Return the FLOPs of one token in a forward pass of the recurrence (section 6.3; a causal half is counted)."""
        E, N = self.inner, self.options.state
        seen = (min(CHUNK, self.config.context_length) + 1) // 2
        return 2 * seen * (N + E) + 2 * 2 * N * E

    def activations(self, kept: Kept) -> int:
        """Return the bytes of a token: convolution, gate and norm in the model's precision, the recurrence in float32.

        A chunk's scores and decays are kept, and its states. The numbers of copies were counted on a CPU.
        """
        t, T = kept.parallel.tensor, self.config.context_length
        E, H, N, C = self.inner // t, self.config.heads // t, self.options.state, min(CHUNK, T)
        convolved = E + 2 * N
        own = convolved * (3 + (self.options.kernel - 1) / T) + 6 * E
        exact = 5 * E + 2 * N * E / C + H * (2 * C + 6) + C
        return round(own * kept.value + convolved * kept.exact + exact * STATISTIC)

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        """Return the roles; initial values of decays and steps are the reference's."""
        D, E, N, k = self.config.d_model, self.inner, self.options.state, self.options.kernel
        taps = Uniform(-(k**-0.5), k**-0.5)
        return {
            **linear("into", std, D, split="column", parts=(E, E)),
            **linear("bc", std, D, split="shared outputs", parts=(N, N), grows="nothing"),
            **linear("dt", std, D, split="column", grows="heads"),
            "conv_x": Role(taps, "vector", split="column"),
            "conv_x_bias": Role(Constant(0.0), "vector", split="column"),
            "conv_bc": Role(taps, "vector", split="shared heads"),
            "conv_bc_bias": Role(Constant(0.0), "vector", split="shared heads"),
            "dt_bias": Role(InverseSoftplus(1e-3, 0.1), "vector", split="column"),
            "A_log": Role(LogOfUniform(1.0, 16.0), "vector", split="column"),
            "skip": Role(Constant(1.0), "vector", split="column"),
            "scale": Role(Constant(1.0), "vector", split="column"),
            **linear("out", out_std, E, split="row"),
        }

    def shape(self) -> MixerShape:
        """Return what the time of a step depends on."""
        D, E, H, N, k = self.config.d_model, self.inner, self.config.heads, self.options.state, self.options.kernel
        values = (2 + k) * (E + 2 * N) + 12 * E + H * CHUNK // 2
        products = (Product(2 * E, D, "column"), Product(2 * N, D), Product(H, D, "column"), Product(D, E, "row"))
        return MixerShape(products, flops=self._recurrence(), values=values, fused_values=values // 2)

    def state_size(self) -> StateSize:
        """Return the inputs that the convolution still sees, and the state."""
        E, N = self.inner, self.options.state
        return StateSize(fixed=(self.options.kernel - 1) * (E + 2 * N) + N * E)

    def shared_widths(self) -> dict[str, int]:
        """Return what tensor ranks share."""
        return {"n_heads": self.config.heads, "norm_groups": self.options.norm_groups or self.config.heads}

    def fp8_sides(self, tensor: int) -> dict[str, int]:
        """Return the sides of the matrices that a tensor rank multiplies in fp8, by name."""
        sides = {f"expand x d_model / tensor {tensor}": self.inner // tensor, "2 state": 2 * self.options.state}
        return {**sides, f"n_heads / tensor {tensor}": self.config.heads // tensor}
