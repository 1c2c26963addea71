"""The keys of residual blocks of causal convolutions, as published."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from trainer.config.base import Section
from trainer.config.identity import Result
from trainer.config.model import ModelConfig


class BlocksConfig(Section):
    """Equal residual blocks: `{layers: [[4, 900]], repeat: 7}` is `[4, 900] x 7` of Dauphin et al. 2017, table 1."""

    layers: Result[tuple[tuple[int, int], ...]] = Field(
        min_length=1, description="kernel and width of each convolution of a block"
    )
    repeat: Result[int] = Field(1, gt=0, description="number of such blocks")

    @model_validator(mode="after")
    def _positive(self) -> BlocksConfig:
        if any(number < 1 for layer in self.layers for number in layer):
            raise ValueError(f"layers {[list(layer) for layer in self.layers]}: kernels and widths are above 0")
        return self


class Layer(Section):
    """One convolution: what it sees, and its widths."""

    kernel: int
    dilation: int
    inputs: int
    outputs: int


class ConvolutionalConfig(ModelConfig):
    """An embedding, residual blocks of causal convolutions, and a head.

    With unit glu a gated convolutional network (Dauphin et al. 2017, arXiv 1612.08083), with unit relu and dilation 2 a
    temporal convolutional network (Bai et al. 2018, arXiv 1803.01271).
    """

    family: Result[Literal["convolutional"]] = Field("convolutional", description="architecture")
    d_model: Result[int] = Field(gt=0, description="values of a word")
    n_layers: Result[int] = Field(gt=0, description="number of residual blocks; follows from blocks")
    blocks: Result[tuple[BlocksConfig, ...]] = Field(min_length=1, description="the residual blocks, in order")
    unit: Result[Literal["glu", "relu"]] = Field(
        "glu", description="after each convolution; relu is applied to the sum of each block too"
    )
    dilation: Result[int] = Field(
        1, gt=0, description="tokens lie this many times further apart in each block than in the one before"
    )
    weight_norm: Result[bool] = Field(True, description="direction and length of each output's weights apart")
    carry: Result[bool] = Field(
        False,
        description="what a lane has read goes on into its next step, cut off from its gradient (truncated "
        "backpropagation through time); needs data.order streams",
    )
    dropout: Result[float] = Field(0.0, ge=0, lt=1, description="of what each convolution gives; training only")
    input_dropout: Result[float] = Field(0.0, ge=0, lt=1, description="of the embedding's output")

    @model_validator(mode="before")
    @classmethod
    def _depth(cls, values: Any) -> Any:
        """The blocks say how many there are."""
        if not isinstance(values, dict) or "n_layers" in values or not isinstance(values.get("blocks"), list | tuple):
            return values
        parsed = [BlocksConfig.model_validate(blocks) for blocks in values["blocks"]]
        return {**values, "n_layers": sum(blocks.repeat for blocks in parsed)}

    @model_validator(mode="after")
    def _fits(self) -> ConvolutionalConfig:
        if self.size is not None:
            raise ValueError("size has no rule for this family: give d_model and blocks")
        if self.n_layers != (stated := sum(blocks.repeat for blocks in self.blocks)):
            raise ValueError(f"n_layers is {self.n_layers}, and blocks names {stated}: leave n_layers out")
        return self

    @property
    def first_width(self) -> int:
        """Width of what the first block reads: where the embedding is not as wide, a projection makes it so."""
        return self.blocks[0].layers[0][1]

    @property
    def last_width(self) -> int:
        """Width of what the last block gives."""
        return self.blocks[-1].layers[-1][1]

    @property
    def residual_blocks(self) -> list[list[Layer]]:
        """The convolutions of each block."""
        found: list[list[Layer]] = []
        width = self.first_width
        for blocks in self.blocks:
            for _ in range(blocks.repeat):
                dilation, convolutions = self.dilation ** len(found), list[Layer]()
                for kernel, outputs in blocks.layers:
                    convolutions.append(Layer(kernel=kernel, dilation=dilation, inputs=width, outputs=outputs))
                    width = outputs
                found.append(convolutions)
        return found

    def at_width(self, times: float) -> Self:
        """Return the model with all widths so many times as great."""

        def layers(blocks: BlocksConfig) -> tuple[tuple[int, int], ...]:
            return tuple((kernel, round(times * width)) for kernel, width in blocks.layers)

        blocks = tuple(entry.model_copy(update={"layers": layers(entry)}) for entry in self.blocks)
        return self.model_copy(update={"d_model": round(times * self.d_model), "blocks": blocks})

    def check_transfer(self) -> None:
        """Raise ValueError for another depth where the sum of a block goes through a rectifier."""
        if self.deepened != 1 and self.unit == "relu":
            raise ValueError("completep is for a stream that blocks only add to, and unit relu rectifies it: use mup")

    @property
    def receptive_field(self) -> int:
        """Number of tokens that a prediction depends on."""
        return 1 + sum((conv.kernel - 1) * conv.dilation for block in self.residual_blocks for conv in block)

    @property
    def carries(self) -> bool:
        """Whether what a lane has read goes on into its next step."""
        return self.carry

    @property
    def head_width(self) -> int:
        """What the head reads: a word's values if it is the embedding, and the last block's output if not."""
        return self.d_model if self.tied_embeddings else self.last_width

    @property
    def drops(self) -> bool:
        """Whether training draws random numbers."""
        return self.dropout > 0 or self.input_dropout > 0

    def regularisers(self) -> dict[str, Any]:
        """Return the settings that matter in training only."""
        return {"dropout": self.dropout, "input_dropout": self.input_dropout}

    def shape(self) -> dict[str, int]:
        """Return width, depth, and the width of the last block."""
        return {**super().shape(), "last_width": self.last_width}

    def free_on_warm_start(self) -> tuple[str, ...]:
        """No parameter depends on the context, and on whether it is carried."""
        return ("carry", "context_length")
