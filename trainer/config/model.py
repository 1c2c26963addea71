"""The model section: what every family of models has. A family adds its own keys in its folder's `config.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, WrapValidator, model_validator

from trainer.config.base import Section, is_none
from trainer.config.identity import Execution, Result
from trainer.config.span import Count
from trainer.contract.errors import UserError
from trainer.models.registry import FAMILIES, find_family, load

DEFAULT_FAMILY = "transformer"


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


class Transfer(Section):
    """The rule and the base of a model, which its initial values and its forward pass depend on.

    It follows from `optim.parametrization` and `optim.base`, and is stored with the model so that whoever reads a
    checkpoint computes what was trained.
    """

    rule: Result[Literal["mup", "completep"]] = Field(description="mup or completep")
    d_model: Result[int] = Field(gt=0, description="width of the base")
    n_layers: Result[int | None] = Field(None, gt=0, description="depth of the base; none where the rule is of width")
    head_dim: Result[int | None] = Field(None, gt=0, description="width of the base's heads; none: this model's own")


class ModelConfig(Section):
    """A language model. Read one with `parse_model`, which gives the section of its family."""

    family: Result[str] = Field(DEFAULT_FAMILY, description=f"architecture: {', '.join(FAMILIES)}")
    size: Execution[str | None] = Field(None, description="body parameters, such as 10M; or give the shape, key by key")
    d_model: Result[int] = Field(gt=0, description="width of the residual stream")
    n_layers: Result[int] = Field(gt=0, description="number of blocks")
    vocab_size: Result[Count | None] = Field(None, gt=0, description="default: the tokenizer's")
    vocab_multiple_of: Result[int] = Field(
        1, gt=0, description="round the embedding's rows up, so that tensor ranks can split it"
    )
    context_length: Result[Count] = Field(256, gt=0, description="tokens of one training sequence")
    tied_embeddings: Result[bool] = Field(True, description="the head is the embedding")
    adaptive: Result[AdaptiveConfig | None] = Field(
        None,
        description="rare words have fewer values, in the head and, if so said, in the embedding; default all alike",
        exclude_if=is_none,  # so that models without it keep their identity
    )
    dropout: Result[float] = Field(
        0.0, ge=0, lt=1, description="of attention, embeddings and what each part adds; training only"
    )
    logit_softcap: Result[float | None] = Field(
        None,
        gt=0,
        description="logits z become c tanh(z / c) for this c (Gemma 2); default none",
        exclude_if=is_none,  # so that models without it keep their identity
    )
    init_std: Result[float | None] = Field(None, gt=0, description="of matrices; default sqrt(2 / 5 d_model)")

    transfer: Result[Transfer | None] = Field(
        None,
        description="follows from optim.parametrization and optim.base: not to be given",
        exclude_if=is_none,  # so that models without it keep their identity
    )

    @model_validator(mode="after")
    def _bands_fit(self) -> ModelConfig:
        if self.adaptive is None:
            return self
        if self.tied_embeddings and not self.adaptive.input:
            raise ValueError(
                "an adaptive head cannot be the embedding as long as the embedding has no bands: set tied_embeddings "
                "to false, or adaptive.input to true"
            )
        rows = None if self.vocab_size is None else self.vocab_rows
        misfit = self.adaptive.misfit(rows, {self.head_width, self.d_model})
        if misfit is not None:
            raise ValueError(f"adaptive: {misfit}")
        return self

    def with_any_vocabulary(self) -> Self:
        """Return the model with a vocabulary where none is known yet: no count of its body depends on it."""
        return self if self.vocab_size is not None else self.model_copy(update={"vocab_size": 1})

    @classmethod
    def known_keys(cls) -> list[str]:
        """Return the keys of every family."""
        sections = [cls, *(config_class(family) for family in FAMILIES)]
        return list(dict.fromkeys(key for section in sections for key in section.model_fields))

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding: the vocabulary rounded up to `vocab_multiple_of`."""
        assert self.vocab_size is not None, "the vocabulary is known once the data are prepared"
        return -(-self.vocab_size // self.vocab_multiple_of) * self.vocab_multiple_of

    @property
    def widened(self) -> float:
        """Width over that of the base from which settings are transferred; 1 without one."""
        return 1.0 if self.transfer is None else self.d_model / self.transfer.d_model

    @property
    def deepened(self) -> float:
        """Depth over that of the base, where the rule is of depth; else 1."""
        if self.transfer is None or self.transfer.n_layers is None:
            return 1.0
        return self.n_layers / self.transfer.n_layers

    @property
    def heads_grown(self) -> float:
        """Heads over those of the base: they grow with the width unless their own width does."""
        return self.widened

    def at_width(self, times: float) -> Self:
        """Return the model with all widths so many times as great, rounded; it is not checked.

        Raises ValueError in a family that does not say how its widths follow `d_model`.
        """
        raise ValueError(f"the family {self.family} does not say how its widths grow: set parametrization to standard")

    def check_transfer(self) -> None:
        """Raise ValueError where the family, or a choice of this model, has no rule for width or depth."""
        self.at_width(1 / self.widened)

    @property
    def head_width(self) -> int:
        """Width of what the head reads."""
        return self.d_model

    @property
    def drops(self) -> bool:
        """Whether training draws random numbers."""
        return self.dropout > 0

    def regularisers(self) -> dict[str, object]:
        """Return the settings that matter in training only, by key."""
        return {"dropout": self.dropout}

    def architecture(self) -> dict[str, object]:
        """Return the settings on which the parameters' shapes and meaning depend, with defaults spelt out."""
        values = self.model_dump(mode="json", exclude={"size", "dropout", "init_std", "init"})
        values = {key: value for key, value in values.items() if key not in self.regularisers()}
        if self.vocab_size == self.vocab_rows:  # rounding that changes nothing is no difference
            values["vocab_multiple_of"] = 1
        return values

    def shape(self) -> dict[str, int]:
        """Return the numbers that a size stands for, by key."""
        return {"d_model": self.d_model, "n_layers": self.n_layers}

    @property
    def carries(self) -> bool:
        """Whether what a lane has read goes on into its next step, see `LanguageModel.carried_state`."""
        return False

    @property
    def kind(self) -> str:
        """What curves of a comparison are named by."""
        return self.family

    def free_on_warm_start(self) -> tuple[str, ...]:
        """Return the settings that no parameter depends on, so that a warm start may change them."""
        return ()


def config_class(family: str) -> type[ModelConfig]:
    """Return the section of a family. Raises `UserError` for one that is not known."""
    section: type[ModelConfig] = load(find_family(family).config)
    return section


def parse_model(values: object) -> ModelConfig:
    """Return a model section, read as its family's. Raises pydantic's errors, and ValueError for an unknown family."""
    if isinstance(values, ModelConfig):
        return values
    family = values.get("family", DEFAULT_FAMILY) if isinstance(values, dict) else DEFAULT_FAMILY
    try:
        section = config_class(str(family))
    except UserError as error:
        raise ValueError(str(error)) from None
    return section.model_validate(values)


def _of_family(values: object, _: Callable[[Any], ModelConfig]) -> ModelConfig:
    return parse_model(values)


# A field that takes the section of any family.
AnyModel = SerializeAsAny[Annotated[ModelConfig, WrapValidator(_of_family)]]
