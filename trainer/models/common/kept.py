"""How one rank keeps tensors for the backward pass, in bytes. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.config.parallel import ParallelConfig

if TYPE_CHECKING:
    from trainer.models.transformer.config import TransformerConfig

STATISTIC = 4  # bytes: means, deviations and logarithms of sums are float32 everywhere


@dataclass(frozen=True)
class Kept:
    """One rank of a layout."""

    model: TransformerConfig
    parallel: ParallelConfig
    value: int  # bytes of one
    gpu: bool

    @property
    def mask(self) -> int:
        """Bytes of one element of a dropout mask."""
        return 0 if self.model.dropout == 0 else 1 if self.gpu else self.value

    @property
    def exact(self) -> int:
        """Bytes of a float32 copy of one value; 0 where values are float32 already."""
        return 0 if self.value == STATISTIC else STATISTIC

    def norm(self, width: int, groups: int = 1) -> int:
        """Input and statistics of a norm over `groups` parts of `width`; its output is counted where it is used."""
        if self.model.norm == "layernorm":
            return groups * (width * self.value + 2 * STATISTIC)
        copies = 1 if self.gpu else 2  # without a fused kernel the scaled input is kept beside the input
        return groups * (copies * width * self.value + STATISTIC)
