"""What the time of a step depends on in a model: the products and the values of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CHUNK = 64  # tokens of a chunk, in which recurrences of matrices are worked on side by side


@dataclass(frozen=True)
class Product:
    """A linear layer. Tensor ranks share its outputs (column) or its inputs (row), or each has the whole."""

    outputs: int
    inputs: int
    split: Literal["column", "row"] | None = None

    def on_rank(self, tensor: int) -> tuple[float, float]:
        """Return (outputs, inputs) on one of so many tensor ranks."""
        outputs = self.outputs / tensor if self.split == "column" else self.outputs
        return outputs, self.inputs / tensor if self.split == "row" else self.inputs


@dataclass(frozen=True)
class MixerShape:
    """What a mixer computes for one token in a forward pass. Widths are whole, and shared by tensor ranks."""

    products: tuple[Product, ...]  # in order; recomputing the mixer makes all but the last again
    heads: int = 0  # of attention; 0 where no scores are made
    head_dim: int = 0
    window: int | None = None  # keys that a token sees at most; None: all before it
    memory: int = 0  # keys of the sequence before that each token sees
    flops: int = 0  # of products inside the mixer that no parameter takes part in, such as chunks of a scan
    values: int = 0  # that elementwise kernels read and write, kernel by kernel
    fused_values: int = 0  # the same where kernels are fused
    exchanged: int = 0  # values that sequence ranks exchange
    serial_kernels: int = 0  # kernels that wait for the token before: a recurrence that runs token by token

    def keys_seen(self, context: int) -> float:
        """Return the keys that a token sees in the mean, the masked half not counted."""
        if self.window is None or self.window >= context:
            return context / 2 + self.memory
        return self.window * (1 - self.window / (2 * context))


@dataclass(frozen=True)
class Shape:
    """A stack of blocks. D width, F width of the MLP (0: none), V vocabulary rows, T tokens of a sequence."""

    D: int
    F: int
    V: int
    T: int
    gated: bool
    mixers: tuple[tuple[MixerShape, int], ...]  # each with the number of its layers
    norms: int = 2  # of a block

    @property
    def layers(self) -> int:
        """Number of layers."""
        return sum(layers for _, layers in self.mixers)

    @property
    def mlp(self) -> tuple[Product, ...]:
        """The linear layers of a block's MLP."""
        if not self.F:
            return ()
        up = 2 * self.F if self.gated else self.F
        return (Product(up, self.D, "column"), Product(self.D, self.F, "row"))
