"""The transformer's keys of the model section."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from trainer.config.identity import Result
from trainer.config.model import ModelConfig
from trainer.config.sizes import dimensions


class TransformerConfig(ModelConfig):
    """A decoder-only transformer. `size` finds width, depth and heads by the rule in `trainer/config/sizes.py`."""

    family: Result[Literal["transformer"]] = Field("transformer", description="architecture")
    n_heads: Result[int] = Field(gt=0, description="query heads; each is d_model / n_heads wide")
    n_kv_heads: Result[int | None] = Field(None, gt=0, description="grouped-query key/value heads; default n_heads")
    d_ff: Result[int | None] = Field(None, gt=0, description="MLP width; default 4 d_model, or 8/3 d_model gated")

    position: Result[Literal["rotary", "learned"]] = Field("rotary", description="how places in the sequence are told")
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
    mlp: Result[Literal["swiglu", "gelu", "gelu_tanh"]] = Field(
        "swiglu", description="gelu_tanh: the approximation of GPT-2"
    )
    qk_norm: Result[bool] = Field(False, description="RMSNorm of queries and keys, for each head")
    bias: Result[bool] = Field(False, description="biases in linear layers and LayerNorm")
    fused_qkv: Result[bool] = Field(True, description="one matrix for queries, keys and values")

    @model_validator(mode="before")
    @classmethod
    def _dimensions_from_size(cls, values: object) -> Any:
        if not isinstance(values, dict) or values.get("size") is None:
            return values
        shape = dimensions(values["size"])
        derived = {"d_model": shape.d_model, "n_layers": shape.n_layers, "n_heads": shape.n_heads}
        return {**derived, **values, "size": str(values["size"])}

    @model_validator(mode="after")
    def _heads_fit(self) -> TransformerConfig:
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.kv_heads}")
        if self.position == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head width, d_model / n_heads is {self.head_dim}")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def ff_width(self) -> int:
        """MLP width. Gated: 8/3 d_model rounded up to a multiple of 16, for equal parameters (Shazeer 2020)."""
        if self.d_ff is not None:
            return self.d_ff
        return -(-8 * self.d_model // 48) * 16 if self.mlp == "swiglu" else 4 * self.d_model

    @property
    def epsilon(self) -> float:
        """What the norms add to the variance."""
        return self.norm_eps or {"rmsnorm": 1e-6, "layernorm": 1e-5}[self.norm]

    def architecture(self) -> dict[str, object]:
        """Return the settings on which the parameters' shapes and meaning depend, with defaults spelt out."""
        return {**super().architecture(), "d_ff": self.ff_width, "n_kv_heads": self.kv_heads}

    def shape(self) -> dict[str, int]:
        """Return width, depth and heads."""
        return {**super().shape(), "n_heads": self.n_heads}

    def free_on_warm_start(self) -> tuple[str, ...]:
        """With rotary positions no parameter depends on the context and the base."""
        return ("context_length", "rotary_base") if self.position == "rotary" else ()
