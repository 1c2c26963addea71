"""A length of training: `500 steps`, `20M tokens` or `5%` of the run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

SUFFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
MOST = 10**18  # of anything that is counted: 64-bit integers hold it, and no run comes near
_NUMBER = re.compile(r"^\s*([0-9][0-9_]*\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([kKMBGT]?)\s*$")
_SPAN = re.compile(r"^\s*(.+?)\s*(steps?|tokens?|%)\s*$")


def parse_count(text: object) -> int:
    """Read `20M`, `1.5B`, `32_768`, `2e6` or a plain number as an integer. Raises ValueError."""
    if isinstance(text, bool):
        raise ValueError("expected a number such as 32768, 20M or 1.5B")
    if isinstance(text, int):
        return _bounded(text)
    match = _NUMBER.match(str(text))
    if match is None:
        raise ValueError("expected a number such as 32768, 20M or 1.5B")
    value = float(match[1].replace("_", "")) * SUFFIXES[match[2]]
    if abs(value) <= MOST and value != int(value):
        raise ValueError(f"expected a whole number, not {value}")
    return _bounded(value)


def _bounded(value: float) -> int:
    if not abs(value) <= MOST:
        raise ValueError(f"expected a number of at most {MOST:.0e}")
    return int(value)


Count = Annotated[int, BeforeValidator(parse_count)]


@dataclass(frozen=True)
class Span:
    """A positive length of training in one unit."""

    value: float
    unit: Literal["steps", "tokens", "%"]

    def steps(self, *, tokens_per_step: int, total_steps: int) -> int:
        """Return the length in whole optimizer steps, rounded up so that a non-zero span is at least one."""
        if self.unit == "steps":
            return int(self.value)
        if self.unit == "tokens":
            return -(-int(self.value) // tokens_per_step)
        return -(-int(self.value * total_steps) // 100)

    def __str__(self) -> str:
        value = int(self.value) if self.value == int(self.value) else self.value
        return f"{value}%" if self.unit == "%" else f"{value} {self.unit}"


def parse_span(text: object) -> Span:
    """Read `500 steps`, `20M tokens` or `5%`. Raises ValueError."""
    if isinstance(text, Span):
        return text
    match = _SPAN.match(str(text))
    if match is None:
        raise ValueError("expected a length with its unit, such as '500 steps', '20M tokens' or '5%'")
    if match[2] == "%":
        value = float(match[1])
        if not 0 <= value <= 100:
            raise ValueError("expected a share between 0% and 100%")
        return Span(value, "%")
    unit: Literal["steps", "tokens"] = "steps" if match[2].startswith("step") else "tokens"
    return Span(float(parse_count(match[1])), unit)


SpanField = Annotated[
    Span,
    BeforeValidator(parse_span),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "format": "N steps, N tokens or N%"}),
]
