"""A whole family of models in one file: each token sees the mean of the embeddings before it.

It proves the interface: nothing of the trainer knows it, and it trains, is counted, saved, loaded and sampled.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.config.base import parse_section
from trainer.config.identity import Result
from trainer.config.model import ModelConfig
from trainer.config.parallel import Degrees, ParallelConfig
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.models.common.head import Head
from trainer.models.interface import LanguageModel, LayerState, State, tie_head
from trainer.models.registry import Family
from trainer.models.roles import Normal, Role, linear
from trainer.plan.activations import Activations
from trainer.plan.counting import FlopCount, ParameterCount

TOY = Family(
    "toy",
    config="tests.unit.toy_family:ToyConfig",
    cost="tests.unit.toy_family",
    model="tests.unit.toy_family:Toy",
)


class ToyConfig(ModelConfig):
    """The toy's keys."""

    family: Result[Literal["toy"]] = "toy"
    gain: Result[float] = Field(1.0, gt=0, description="of what a block adds")


def count_parameters(config: ToyConfig) -> ParameterCount:
    table = config.vocab_rows * config.d_model
    head = 0 if config.tied_embeddings else table
    mixing = config.n_layers * (config.d_model**2 + config.d_model)
    return ParameterCount(table, 0, {"mixing": mixing}, head, replicated=mixing)


def count_flops(config: ToyConfig) -> FlopCount:
    return FlopCount(6 * config.n_layers * config.d_model**2, 0, 6 * config.vocab_rows * config.d_model)


def activations(model: ToyConfig, parallel: ParallelConfig, *, bytes_per_value: int, gpu: bool) -> Activations:
    return Activations(2 * model.n_layers * model.d_model * bytes_per_value, 0, 0)


def check_splits(model: ToyConfig, degrees: Degrees) -> None:
    if degrees.tensor > 1 or degrees.sequence > 1:
        raise UserError("the toy cannot be split over tensor or sequence ranks: set parallel.tensor to 1")


def check_documents(model: ToyConfig) -> None:
    raise UserError("the toy reads on over the end of a document: set data.document_mask to false")


def fp8_sides(model: ToyConfig, tensor: int) -> dict[str, int]:
    return {"d_model": model.d_model}


def roles(config: ToyConfig) -> dict[str, Role]:
    return {
        "embed.weight": Role(Normal(0.1), "embedding", split="vocab"),
        "head.weight": Role(Normal(0.1), "head", split="vocab", fan_in=config.d_model),
        **linear("blocks.*.mix", 0.1, config.d_model),
    }


class Block(nn.Module):
    """x + gain * mix(mean of x so far)."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.gain, self.mix = config.gain, nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, state: LayerState | None) -> Tensor:
        total = x.cumsum(1)
        count = torch.arange(1, x.shape[1] + 1, device=x.device).expand(x.shape[:2])
        if state is not None:
            total, count = total + state.get("total", 0), count + state.get("count", 0)
            state["total"], state["count"] = total[:, -1:], count[:, -1:]
        mixed: Tensor = x + self.gain * self.mix(total / count[:, :, None])
        return mixed


class Toy(LanguageModel):
    """Embedding, blocks, head."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config, roles(config))
        self.embed = nn.Embedding(config.vocab_rows, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.head = Head(config.d_model, config.vocab_rows)
        tie_head(self)

    @property
    def state_limit(self) -> None:
        """The mean of any number of tokens is one vector."""

    def hidden(self, inputs: Tensor, documents: Any, positions: Any, state: State | None) -> Tensor:
        x: Tensor = self.embed(inputs)
        for number, block in enumerate(self.blocks):
            x = block(x, None if state is None else state.layers[number])
        return x


VOCAB = 64


def toy(**sections: Any) -> RunConfig:
    """Return a run of 20 steps of 128 tokens."""
    model = {"family": "toy", "d_model": 16, "n_layers": 2, "vocab_size": VOCAB, "context_length": 16}
    values: dict[str, Any] = {"model": model, "data": {}, "batch": {"tokens_per_step": 128}, "steps": 20}
    return parse_section(RunConfig, {**values, "precision": "fp32", "device": "cpu", **sections}, "toy")
