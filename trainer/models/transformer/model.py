"""A stack of blocks in plain PyTorch; with attention as its mixer, a decoder-only transformer.

It knows nothing of ranks, DeepSpeed or checkpoints. Shapes: B batch, T tokens, D d_model.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.models.common.ends import make_embedding, make_head
from trainer.models.common.mlp import GatedMLP, PlainMLP
from trainer.models.common.norm import make_norm
from trainer.models.common.rotary import rotary_angles
from trainer.models.interface import Context, LanguageModel, LayerState, State, places, tie_head
from trainer.models.mixers.registry import find_mixer
from trainer.models.transformer.config import TransformerConfig
from trainer.models.transformer.roles import roles


class Block(nn.Module):
    """One pre-norm layer: x + mixer(norm x), then x + mlp(norm x)."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        D, F, choice = config.d_model, config.ff_width, config.mixers[layer]
        mixer = find_mixer(choice.name)
        self._mixer, self._mixer_norm = mixer.prefix, f"{mixer.prefix}_norm"
        self.add_module(self._mixer_norm, make_norm(config, D))
        self.add_module(self._mixer, mixer.module_class(config, choice.options, layer))
        self.mlp_norm = make_norm(config, D)
        self.mlp = (
            GatedMLP(D, F, bias=config.bias)
            if config.mlp == "swiglu"
            else PlainMLP(D, F, bias=config.bias, tanh=config.mlp == "gelu_tanh")
        )
        self.residual_dropout = nn.Dropout(config.dropout)

    @property
    def mixer(self) -> nn.Module:
        """What mixes tokens. In names of parameters it is called by its own name."""
        mixer: nn.Module = getattr(self, self._mixer)
        return mixer

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        normed = getattr(self, self._mixer_norm)(x)
        x = x + self.residual_dropout(self.mixer(normed, context=context, state=state))
        mixed: Tensor = x + self.residual_dropout(self.mlp(self.mlp_norm(x)))
        return mixed


class Transformer(LanguageModel):
    """Embedding, blocks, norm and head. See the model's configuration for the choices."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, roles(config))
        self.embed = make_embedding(config)
        self.position = nn.Embedding(config.context_length, config.d_model) if config.position == "learned" else None
        self.embed_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = make_norm(config, config.d_model)
        self.head = make_head(config)
        tie_head(self)

    def hidden(self, inputs: Tensor, documents: Tensor | None, positions: Tensor | None, state: State | None) -> Tensor:
        """Return the normed output of the last block, (B, T, D)."""
        positions = places(inputs, positions, state)
        x = self.embed(inputs)
        if self.position is not None:
            x = x + self.position(positions)
        x = self.embed_dropout(x)
        angles = None
        if self.config.position == "rotary":
            angles = rotary_angles(positions, self.config.head_dim, self.config.rotary_base)
        context = Context(positions, angles, documents)
        for number, block in enumerate(self.blocks):
            # by keyword: hooks of ZeRO 3 look at what comes by place, and know no Context
            x = block(x, context=context, state=None if state is None else state.layers[number])
        normed: Tensor = self.norm(x)
        return normed
