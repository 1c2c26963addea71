"""Residual blocks of causal convolutions: gated (Dauphin et al. 2017) or temporal (Bai et al. 2018) networks.

Shapes: B batch, T tokens, I width of a block's input, O of its output, k kernel width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.common.ends import make_embedding, make_head
from trainer.models.common.weight_norm import WeightNormLinear
from trainer.models.common.window import causal_window
from trainer.models.convolutional.config import ConvolutionalConfig
from trainer.models.convolutional.roles import roles
from trainer.models.interface import Context, LanguageModel, LayerState, State, places, tie_head


class Block(nn.Module):
    """x + convolutions(x), and with rectifiers the positive part of that. x is projected where widths differ."""

    def __init__(self, config: ConvolutionalConfig, number: int) -> None:
        super().__init__()
        self.unit, self.layers = config.unit, config.residual_blocks[number]
        gated = 2 if config.unit == "glu" else 1
        make = WeightNormLinear if config.weight_norm else nn.Linear
        self.mixer = nn.ModuleList(make(conv.kernel * conv.inputs, gated * conv.outputs) for conv in self.layers)
        inputs, outputs = self.layers[0].inputs, self.layers[-1].outputs
        self.past = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)
        self.dropout = nn.Dropout(config.dropout)
        self.scale = 1 / config.deepened

    def forward(self, x: Tensor, context: Context, states: list[LayerState] | None = None) -> Tensor:
        """Return (B, T, O) for x (B, T, I). `states` has one window for each convolution."""
        y = x
        for place, (layer, convolve) in enumerate(zip(self.layers, self.mixer, strict=True)):
            state = None if states is None else states[place]
            window = causal_window(y, layer.kernel, context.documents, state, dilation=layer.dilation)
            y = convolve(window.flatten(2))
            y = self.dropout(F.glu(y) if self.unit == "glu" else F.relu(y))
        y = self.past(x) + (y if self.scale == 1 else self.scale * y)
        return F.relu(y) if self.unit == "relu" else y


class Convolutional(LanguageModel):
    """Embedding, blocks and head, with projections where widths differ."""

    config: ConvolutionalConfig

    def __init__(self, config: ConvolutionalConfig) -> None:
        super().__init__(config, roles(config))
        first, last = config.first_width, config.last_width
        self.embed = make_embedding(config)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.enter = nn.Identity() if first == config.d_model else nn.Linear(config.d_model, first)
        self.blocks = nn.ModuleList(Block(config, number) for number in range(config.n_layers))
        self.project = nn.Identity() if last == config.head_width else nn.Linear(last, config.head_width, bias=False)
        self.head = make_head(config)
        tie_head(self)

    @property
    def state_limit(self) -> int | None:
        """None: a state reads any number of tokens."""
        return None

    def initial_state(self) -> State:
        """Return the state before the first token: a window for each convolution."""
        return State([{} for block in self.config.residual_blocks for _ in block])

    def hidden(self, inputs: Tensor, documents: Tensor | None, positions: Tensor | None, state: State | None) -> Tensor:
        """Return what the head reads."""
        context = Context(places(inputs, positions, state), documents=documents)
        x = self.enter(self.input_dropout(self.embed(inputs)))
        states = None if state is None else iter(state.layers)
        for block, layers in zip(self.blocks, self.config.residual_blocks, strict=True):
            own = None if states is None else [next(states) for _ in layers]
            x = block(x, context=context, states=own)
        read: Tensor = self.project(x)
        return read
