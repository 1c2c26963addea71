"""The keys of stacked recurrent layers, as published: no residual stream, no norms."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from trainer.config.identity import Result
from trainer.config.model import ModelConfig

DROPPED = ("dropout", "input_dropout", "hidden_dropout", "word_dropout", "weight_drop")
PENALTIES = ("activation_penalty", "slowness_penalty")


class RecurrentConfig(ModelConfig):
    """An embedding, recurrent layers of widths of their own, and a head.

    The regularisers are those of Merity et al. 2018 (AWD-LSTM, arXiv 1708.02182, section 4), the names of their code in
    brackets.
    """

    family: Result[Literal["recurrent"]] = Field("recurrent", description="architecture")
    cell: Result[Literal["lstm", "qrnn"]] = Field("lstm", description="what a layer is")
    d_model: Result[int] = Field(gt=0, description="values of a word")
    n_layers: Result[int] = Field(gt=0, description="number of layers")
    widths: Result[tuple[int, ...] | None] = Field(
        None,
        description="hidden width of each layer; default d_model. A tied head needs a projection if the last is other",
    )
    window: Result[int] = Field(
        1, gt=0, description="tokens that the gates of the first layer see; of qrnn, whose other layers see one"
    )
    carry: Result[bool] = Field(
        False,
        description="what a lane has read goes on into its next step, cut off from its gradient (truncated "
        "backpropagation through time); needs data.order streams",
    )
    dropout: Result[float] = Field(0.0, ge=0, lt=1, description="of the last layer's output (dropout); training only")
    input_dropout: Result[float] = Field(0.0, ge=0, lt=1, description="of the embedding's output (dropouti)")
    hidden_dropout: Result[float] = Field(0.0, ge=0, lt=1, description="between layers (dropouth)")
    word_dropout: Result[float] = Field(0.0, ge=0, lt=1, description="of whole words in a batch (dropoute)")
    weight_drop: Result[float] = Field(
        0.0, ge=0, lt=1, description="of weights, once a batch: recurrent ones of lstm, all of qrnn (wdrop)"
    )
    variational: Result[bool] = Field(False, description="a sequence's tokens are dropped alike, but for whole words")
    activation_penalty: Result[float] = Field(
        0.0, ge=0, description="times the mean square of the dropped output joins the gradient (alpha, AR)"
    )
    slowness_penalty: Result[float] = Field(
        0.0, ge=0, description="times the mean square of the output's change from token to token (beta, TAR)"
    )

    @model_validator(mode="before")
    @classmethod
    def _depth(cls, values: Any) -> Any:
        """The widths say how many layers there are."""
        if isinstance(values, dict) and isinstance(values.get("widths"), list | tuple):
            return {"n_layers": len(values["widths"]), **values}
        return values

    @model_validator(mode="after")
    def _fits(self) -> RecurrentConfig:
        if self.size is not None:
            raise ValueError("size has no rule for this family: give d_model, and widths or n_layers")
        if self.widths is not None and len(self.widths) != self.n_layers:
            raise ValueError(f"widths names {len(self.widths)} layers, and n_layers is {self.n_layers}")
        if self.widths is not None and min(self.widths) < 1:
            raise ValueError(f"widths {list(self.widths)} are not all above 0")
        if self.cell == "lstm" and self.window != 1:
            raise ValueError("window has no effect with cell lstm: leave it out")
        return self

    @property
    def hidden(self) -> tuple[int, ...]:
        """Hidden width of each layer."""
        return self.widths or (self.d_model,) * self.n_layers

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Width of the input and of the output of each layer."""
        return list(zip((self.d_model, *self.hidden), self.hidden, strict=False))

    def kernel(self, layer: int) -> int:
        """Return how many tokens the gates of a layer see."""
        return self.window if layer == 0 else 1

    def at_width(self, times: float) -> Self:
        """Return the model with all widths so many times as great."""
        widths = tuple(round(times * width) for width in self.hidden)
        return self.model_copy(update={"d_model": round(times * self.d_model), "widths": widths})

    def check_transfer(self) -> None:
        """Raise ValueError for another depth: layers are stacked without a residual stream."""
        if self.deepened != 1:
            raise ValueError(
                f"completep scales what a layer adds to the residual stream, and {self.family} has none: use mup, or "
                f"base.n_layers {self.n_layers}"
            )

    @property
    def carries(self) -> bool:
        """Whether what a lane has read goes on into its next step."""
        return self.carry

    @property
    def head_width(self) -> int:
        """What the head reads: a word's values if it is the embedding, and the last layer's output if not."""
        return self.d_model if self.tied_embeddings else self.hidden[-1]

    @property
    def drops(self) -> bool:
        """Whether training draws random numbers."""
        return any(getattr(self, key) for key in DROPPED)

    @property
    def kind(self) -> str:
        """What curves are named by."""
        return f"{self.family} {self.cell}"

    def regularisers(self) -> dict[str, Any]:
        """Return the settings that matter in training only."""
        return {key: getattr(self, key) for key in (*DROPPED, "variational", *PENALTIES)}

    def architecture(self) -> dict[str, Any]:
        """Return the settings on which parameters depend, with all widths."""
        return {**super().architecture(), "widths": list(self.hidden)}

    def shape(self) -> dict[str, int]:
        """Return width and depth."""
        return {**super().shape(), "last_width": self.hidden[-1]}

    def free_on_warm_start(self) -> tuple[str, ...]:
        """No parameter depends on the context, and on whether it is carried."""
        return ("carry", "context_length")
