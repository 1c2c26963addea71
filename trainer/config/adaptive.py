"""The adaptive section of a model: words in bands by frequency, of which the rarer have fewer values."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, model_validator

from trainer.config.base import Section
from trainer.config.identity import Result


@dataclass(frozen=True)
class Band:
    """Words from `start` to `stop`, with so many values each."""

    start: int
    stop: int
    width: int

    @property
    def size(self) -> int:
        """Number of words."""
        return self.stop - self.start


class AdaptiveConfig(Section):
    """Adaptive softmax (Grave et al. 2017, arXiv 1609.04309) and input (Baevski and Auli 2019, arXiv 1809.10853).

    Words must be numbered by frequency, the most frequent first.
    """

    cutoffs: Result[tuple[int, ...]] = Field(
        min_length=1, description="numbers of the words at which the second band and each further one begin"
    )
    factor: Result[int] = Field(4, gt=0, description="each band's words have so many times fewer values")
    input: Result[bool] = Field(False, description="the embedding has the same bands as the head")

    @model_validator(mode="after")
    def _ascending(self) -> AdaptiveConfig:
        if list(self.cutoffs) != sorted({cutoff for cutoff in self.cutoffs if cutoff > 0}):
            raise ValueError(f"cutoffs {list(self.cutoffs)} do not ascend from above 0")
        return self

    def bands(self, rows: int, width: int) -> list[Band]:
        """Return the bands of a vocabulary whose most frequent words have `width` values."""
        starts, stops = (0, *self.cutoffs), (*self.cutoffs, rows)
        pairs = enumerate(zip(starts, stops, strict=True))
        return [Band(start, stop, width // self.factor**number) for number, (start, stop) in pairs]

    def misfit(self, rows: int | None, widths: set[int]) -> str | None:
        """Return what keeps a model with these widths at its ends from having such bands; None if nothing does."""
        if rows is not None and self.cutoffs[-1] >= rows:
            return f"the last of the cutoffs, {self.cutoffs[-1]}, is not below the vocabulary of {rows}"
        smallest = self.factor ** len(self.cutoffs)
        if min(widths) < smallest:
            return f"{len(self.cutoffs)} bands after the first, with factor {self.factor}, need a width of {smallest}"
        return None
