"""The transformer's keys of the model section."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from trainer.config.choice import Choice, plain_choice
from trainer.config.identity import Result
from trainer.config.model import ModelConfig
from trainer.config.sizes import dimensions, usual_ff
from trainer.models.mixers.base import kinds_of
from trainer.models.mixers.registry import find_mixer
from trainer.models.transformer.stated import (
    ATTENTION,
    INSIDE_MIXERS,
    fitted_shape,
    parse_mixer,
    shortest,
    stated_mixers,
)

CARRIED_POSITIONS = ("rotary", "relative", "none")  # they tell distances, which do not grow with the text
OF_MIXERS = ("n_heads", "n_kv_heads", "qk_norm", "fused_qkv")  # keys that only some mixers read


MixerChoice = Annotated[
    Choice,
    BeforeValidator(parse_mixer),
    PlainSerializer(plain_choice),
    WithJsonSchema({"type": "string", "format": "NAME or {NAME: {option: value}}"}),
]


class TransformerConfig(ModelConfig):
    """A stack of blocks: norm, mixer, norm, MLP. With attention as its mixer it is a decoder-only transformer.

    `size` finds width, depth and heads by the rule in `trainer/config/sizes.py`.
    """

    family: Result[Literal["transformer"]] = Field("transformer", description="architecture")
    mixer: Result[MixerChoice] = Field(
        ATTENTION,
        description="what mixes tokens in every layer",
        exclude_if=lambda value: value == ATTENTION,  # so that runs from before there was a choice keep their identity
    )
    pattern: Result[tuple[MixerChoice, ...] | None] = Field(
        None,
        min_length=1,
        description="mixers, repeated over the layers, in place of one mixer",
        exclude_if=lambda value: value is None,
    )
    n_heads: Result[int | None] = Field(
        None,
        gt=0,
        description="heads of mixers that have them; query heads are d_model / n_heads wide",
        exclude_if=lambda value: value is None,
    )
    n_kv_heads: Result[int | None] = Field(None, gt=0, description="grouped-query key/value heads; default n_heads")
    d_ff: Result[int | None] = Field(None, gt=0, description="MLP width; default 4 d_model, or 8/3 d_model gated")

    carry: Result[bool] = Field(
        False,
        description="what a lane has read goes on into its next step, without gradients: needs data.order streams",
        exclude_if=lambda value: not value,  # so that runs from before there was a choice keep their identity
    )
    memory: Result[int | None] = Field(
        None,
        gt=0,
        description="with carry: tokens before a sequence that attention sees; default context_length",
        exclude_if=lambda value: value is None,
    )
    position: Result[Literal["rotary", "learned", "sinusoidal", "alibi", "relative", "none"]] = Field(
        "rotary",
        description="how places in the sequence are told; default none where no mixer applies rotary positions; "
        "sinusoidal multiplies the embedding by sqrt(d_model), as published; relative: as in Transformer-XL",
    )
    rotary_base: Result[float] = Field(10_000.0, gt=1, description="base of the rotary wavelengths")
    norm: Result[Literal["rmsnorm", "layernorm"]] = Field(
        "rmsnorm", description="before attention and MLP, and at the end"
    )
    norm_eps: Result[float | None] = Field(
        None,
        gt=0,
        description="added to the norms' variance; default 1e-6 (rmsnorm) or 1e-5 (layernorm)",
        exclude_if=lambda value: value is None,  # so that runs and checkpoints without it keep their identity
    )
    norm_placement: Result[Literal["pre", "post", "both", "none"]] = Field(
        "pre",
        description="norms before mixer and MLP, after each residual sum, before and after (sandwich), or nowhere; "
        "with pre and both there is one at the end too",
        exclude_if=lambda value: value == "pre",
    )
    residual_scale: Result[float] = Field(
        1.0, gt=0, description="multiplies what mixer and MLP add", exclude_if=lambda value: value == 1
    )
    init: Result[Literal["scaled", "xavier", "careless"]] = Field(
        "scaled",
        description="of matrices; scaled: by width and depth, see init_std; xavier: Glorot and Bengio 2010; careless: "
        "standard normal, whatever the width",
        exclude_if=lambda value: value == "scaled",
    )
    mlp: Result[Literal["swiglu", "gelu", "gelu_tanh", "relu", "none"]] = Field(
        "swiglu", description="gelu_tanh: the approximation of GPT-2; none: blocks are their mixer alone"
    )
    qk_norm: Result[bool] = Field(False, description="RMSNorm of queries and keys, for each head")
    bias: Result[bool] = Field(False, description="biases in linear layers and LayerNorm")
    fused_qkv: Result[bool] = Field(True, description="one matrix for queries, keys and values")

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, values: object) -> Any:
        """Fill in what follows from the mixers and the size."""
        if not isinstance(values, dict):
            return values
        if values.get("pattern") is not None and "mixer" in values:
            raise ValueError("give mixer or pattern, not both")
        mixers = stated_mixers(values)
        classes = [find_mixer(mixer.name).cost_class for mixer in mixers]
        if "position" not in values and not any("rotary" in mixer.positions for mixer in classes):
            values = {**values, "position": "none"}
        if values.get("size") is None:
            return shortest(values)
        shape = dimensions(values["size"])
        if set(mixers) != {ATTENTION} and not {"d_model", "n_layers"} & values.keys():
            shape = fitted_shape(cls, values, shape)
        derived = {"d_model": shape.d_model, "n_layers": shape.n_layers}
        if shape.d_ff is not None:
            derived["d_ff"] = shape.d_ff
        if any("n_heads" in mixer.settings for mixer in classes):
            derived["n_heads"] = shape.n_heads
        return shortest({**derived, **values, "size": str(values["size"])})

    @model_validator(mode="after")
    def _mixers_fit(self) -> TransformerConfig:
        if self.pattern is not None and len(self.pattern) > self.n_layers:
            raise ValueError(
                f"pattern names {len(self.pattern)} mixers, and the model has {self.n_layers} layers: shorten the "
                "pattern, or give more layers (n_layers)"
            )
        kinds = kinds_of(self)
        names = ", ".join(dict.fromkeys(kind.mixer.name for kind in kinds))
        self._check_settings({key for kind in kinds for key in kind.cost.settings}, names)
        if self.position in INSIDE_MIXERS and not any(self.position in kind.cost.positions for kind in kinds):
            raise ValueError(
                f"position {self.position} is applied to queries and keys, and {names} has none: set position to "
                "learned, sinusoidal or none"
            )
        if self.mlp == "none" and self.d_ff is not None:
            raise ValueError("d_ff has no effect with mlp none: leave it out")
        if self.init == "careless" and self.init_std is not None:
            raise ValueError("init_std has no effect with init careless: leave it out")
        self._check_carry(names, attends=any(kind.mixer.name == "attention" for kind in kinds))
        for kind in kinds:
            kind.cost.check()
        return self

    def _check_carry(self, names: str, *, attends: bool) -> None:
        """Raise ValueError where what is carried on could not be told apart by its place."""
        if self.carry and self.position not in CARRIED_POSITIONS:
            raise ValueError(
                f"position {self.position} begins anew in each sequence, and with carry a sequence sees those before "
                f"it: set position to {' or '.join(CARRIED_POSITIONS)}"
            )
        if self.memory is not None and not (self.carry and attends):
            lacking = f"the mixer {names}" if self.carry else "carry false"
            raise ValueError(f"memory has no effect with {lacking}: leave it out")

    def _check_settings(self, read: set[str], names: str) -> None:
        """Raise ValueError for a setting that no mixer of the model reads, and for heads that are not given."""
        if self.n_heads is None and "n_heads" in read:
            raise ValueError(f"n_heads is missing: the mixer {names} has heads")
        for key in OF_MIXERS:
            if key not in read and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect with the mixer {names}: leave it out")

    @property
    def mixers(self) -> tuple[Choice, ...]:
        """The mixer of each layer."""
        pattern = self.pattern or (self.mixer,)
        return tuple(pattern[layer % len(pattern)] for layer in range(self.n_layers))

    @property
    def kind(self) -> str:
        """What curves of a comparison are named by: the family, or the mixers where they are not attention."""
        if self.pattern is None:
            return self.family if self.mixer == ATTENTION else str(self.mixer)
        return " + ".join(map(str, self.pattern))

    @property
    def heads(self) -> int:
        """Number of (query) heads, of a model that has any."""
        assert self.n_heads is not None, "no mixer of this model has heads"
        return self.n_heads

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.heads

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.n_kv_heads or self.heads

    @property
    def carries(self) -> bool:
        """Whether what a lane has read goes on into its next step."""
        return self.carry

    @property
    def memory_length(self) -> int:
        """Tokens before a sequence that attention sees while a model is trained or evaluated with carry."""
        return (self.memory or self.context_length) if self.carry else 0

    @property
    def branch_scale(self) -> float:
        """What mixer and MLP add is multiplied by: `residual_scale`, and with completep 1 over the depth's growth."""
        return self.residual_scale / self.deepened

    @property
    def query_scale(self) -> float:
        """What scores q k / sqrt(K) are multiplied by for heads K wide: 1, and where K grew, 1 over its root."""
        base = self.transfer.head_dim if self.transfer and self.n_heads else None
        return 1.0 if base is None else math.sqrt(base / self.head_dim)

    @property
    def heads_grown(self) -> float:
        """Heads over those of the base."""
        return self.widened * self.query_scale**2

    def at_width(self, times: float) -> Self:
        """Return the model with all widths so many times as great; heads stay as wide and become more."""
        given = {key: getattr(self, key) for key in ("d_model", "d_ff", "n_heads", "n_kv_heads")}
        return self.model_copy(update={key: max(1, round(times * w)) for key, w in given.items() if w is not None})

    def check_transfer(self) -> None:
        """Raise ValueError for choices that fix what should follow width or depth."""
        if self.init == "careless":
            raise ValueError("init careless is the same at every width, against mup and completep: leave it out")
        if self.deepened != 1 and self.norm_placement == "post":
            raise ValueError("completep is for a stream without norms, not for norm_placement post: set pre or both")
        if self.transfer and self.transfer.head_dim and self.n_heads is None:
            raise ValueError("optim.base.head_dim has no effect, for the model has no heads: leave it out")

    @property
    def norm_rows(self) -> int:
        """Vectors of a norm: its scale, and its bias if it has one."""
        return 2 if self.norm == "layernorm" and self.bias else 1

    @property
    def ff_width(self) -> int:
        """MLP width. Gated: 8/3 d_model rounded up to a multiple of 16, for equal parameters (Shazeer 2020)."""
        if self.mlp == "none":
            return 0
        return usual_ff(self.d_model, self.mlp) if self.d_ff is None else self.d_ff

    @property
    def up_width(self) -> int:
        """Outputs of the first matrix of the MLP."""
        return 2 * self.ff_width if self.mlp == "swiglu" else self.ff_width

    @property
    def block_norms(self) -> int:
        """Norms of one block."""
        branches = 1 if self.mlp == "none" else 2
        return branches * {"pre": 1, "post": 1, "both": 2, "none": 0}[self.norm_placement]

    @property
    def last_norm(self) -> bool:
        """Whether there is a norm before the head."""
        return self.norm_placement in ("pre", "both")

    @property
    def epsilon(self) -> float:
        """What the norms add to the variance."""
        return self.norm_eps or {"rmsnorm": 1e-6, "layernorm": 1e-5}[self.norm]

    def architecture(self) -> dict[str, object]:
        """Return the settings on which the parameters' shapes and meaning depend, with defaults spelt out."""
        read = {key for kind in kinds_of(self) for key in kind.cost.settings}
        heads = {"n_kv_heads": self.kv_heads} if "n_kv_heads" in read else {}
        return {**super().architecture(), "d_ff": self.ff_width or None, **heads}  # None: there is no MLP

    def shape(self) -> dict[str, int]:
        """Return width, depth and heads, if there are any."""
        return super().shape() if self.n_heads is None else {**super().shape(), "n_heads": self.n_heads}

    def free_on_warm_start(self) -> tuple[str, ...]:
        """No parameter depends on the context and the base, but for learned positions."""
        return ("carry", "memory", *(() if self.position == "learned" else ("context_length", "rotary_base")))
