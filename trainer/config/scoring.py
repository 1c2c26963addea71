"""How a trained run is scored on a whole set: what each token reads before it, and the neural cache. Free of torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from trainer.config.base import Section


class ScoringConfig(Section):
    """The settings of `escala evaluate`."""

    split: str = Field("held_out", description="what is scored: held_out, an extra held-out set, or train")
    data: str | None = Field(None, description="directory of another prepared set; default: that of the run")
    tokens: int | None = Field(None, ge=1, description="score the first so many tokens; default: all")
    context: int | None = Field(None, ge=1, description="tokens of a window; default: the model's context")
    stride: int | None = Field(
        None, ge=1, description="windows begin so many tokens apart, and each scores those at its end that are new; "
        "default: the context, so that each window begins with nothing before it"
    )  # fmt: skip
    carry_state: bool = Field(False, description="read the set as one stream, with the state carried over")
    cache: int | None = Field(None, ge=1, description="tokens that the neural cache holds (Grave 2017)")
    cache_theta: float = Field(0.3, ge=0, description="sharpness of the cache")
    cache_weight: float = Field(0.1, ge=0, lt=1, description="share of the cache in the mixture (lambda)")
    batch: int = Field(16, ge=1, description="windows that are read side by side")

    @model_validator(mode="after")
    def _consistent(self) -> ScoringConfig:
        if self.carry_state and self.stride is not None:
            raise ValueError("carry_state reads every token once, and stride reads windows anew: leave one of them out")
        if self.stride is not None and self.context is not None and self.stride > self.context:
            raise ValueError(
                f"a stride of {self.stride} leaves out tokens between windows of {self.context}: use a smaller one"
            )
        if self.cache is None and {"cache_theta", "cache_weight"} & self.model_fields_set:
            raise ValueError("cache_theta and cache_weight have no effect without cache: give its size")
        return self
