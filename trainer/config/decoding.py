"""How sequences are decoded: the decoders by name, and their settings. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator

from trainer.config.base import Section, parse_section
from trainer.contract.errors import UserError, did_you_mean

COLDEST = 1e-6  # logits that are divided by less leave the range of float32
SHAPING = ("temperature", "top_k", "top_p", "min_p", "typical", "repetition_penalty")
COMMON = ("decoder", "tokens")


@dataclass(frozen=True)
class Decoder:
    """A way to decode: a function (Task) -> for each prompt what it produced, best first; and what it heeds."""

    function: str  # module:name
    uses: tuple[str, ...]  # settings beside those that all have
    about: str


DECODERS = {
    "greedy": Decoder(
        "trainer.decoding.rows:greedy", ("stop", "repetition_penalty"), "the most probable token at each step"
    ),
    "ancestral": Decoder(
        "trainer.decoding.rows:ancestral", ("stop", "count", "seed", *SHAPING), "tokens drawn from the model"
    ),
    "best_of": Decoder(
        "trainer.decoding.rows:best_of",
        ("stop", "count", "seed", "draws", "length_alpha", *SHAPING),
        "the most probable of several drawn sequences",
    ),
    "beam": Decoder(
        "trainer.decoding.beam:beam",
        ("stop", "count", "width", "length_alpha"),
        "the best sequences of a search that keeps a number of prefixes",
    ),
    "exhaustive": Decoder(
        "trainer.decoding.exhaustive:exhaustive", (), "the most probable of all sequences, for tiny models and lengths"
    ),
}


class DecodingConfig(Section):
    """The settings of all decoders. Each heeds its own; `parse_decoding` refuses those that have no effect."""

    decoder: str = Field("ancestral", description="how tokens are chosen")
    tokens: int = Field(64, ge=1, description="most tokens of a continuation; it ends sooner with its document")
    count: int = Field(1, ge=1, description="continuations of each prompt")
    seed: int = Field(0, ge=-(2**63), lt=2**64, description="of what is drawn")
    stop: tuple[str, ...] = Field((), description="end before this text; may be repeated")
    temperature: float = Field(0.8, ge=0, description="divides the logits; 0 is greedy")
    top_k: int | None = Field(None, ge=1, description="draw from the k most probable tokens")
    top_p: float | None = Field(
        None, gt=0, le=1, description="draw from the smallest set with this probability (nucleus, Holtzman 2020)"
    )
    min_p: float | None = Field(
        None, gt=0, le=1, description="drop tokens below this share of the best one's probability (Nguyen 2024)"
    )
    typical: float | None = Field(
        None, gt=0, le=1, description="draw from tokens about as surprising as expected, of this mass (Meister 2022)"
    )
    repetition_penalty: float = Field(
        1.0, ge=1, description="lowers the logits of tokens that were there before (Keskar 2019)"
    )
    draws: int = Field(8, ge=1, description="sequences that best_of chooses from")
    width: int = Field(4, ge=1, description="prefixes that beam keeps")
    length_alpha: float = Field(
        0.0, ge=0, description="rank sequences by log-probability / length^alpha; 1 is the mean of a token"
    )

    @field_validator("decoder")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DECODERS:
            raise ValueError(f"there is no such decoder{did_you_mean(name, DECODERS)}")
        return name

    @field_validator("temperature")
    @classmethod
    def _usable(cls, temperature: float) -> float:
        if 0 < temperature < COLDEST:
            raise ValueError(f"take 0 for greedy decoding, or {COLDEST} and more")
        return temperature

    @field_validator("stop")
    @classmethod
    def _some_text(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty text stops before anything is produced")
        return stop


def parse_decoding(values: dict[str, Any]) -> DecodingConfig:
    """Return the settings. Raises UserError for values that cannot be used and for those without effect."""
    config = parse_section(DecodingConfig, values, "decoding")
    refuse_idle(config.decoder, values)
    if config.count > config.draws and config.decoder == "best_of":
        raise UserError(f"the best {config.count} of {config.draws} draws: raise draws, or lower count")
    if config.count > config.width and config.decoder == "beam":
        raise UserError(f"a beam of width {config.width} has no {config.count} sequences: raise width, or lower count")
    return config


def refuse_idle(decoder: str, given: Iterable[str]) -> None:
    """Raise UserError for a setting that the decoder does not heed."""
    known = DECODERS[decoder].uses
    for name in given:
        if name not in (*COMMON, *known):
            uses_it = ", ".join(other for other, entry in DECODERS.items() if name in entry.uses)
            raise UserError(f"{name} has no effect on the decoder {decoder}: leave it out, or take one of {uses_it}")
