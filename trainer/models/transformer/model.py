"""A decoder-only transformer in plain PyTorch. It knows nothing of ranks, DeepSpeed or checkpoints.

Shapes: B batch, T tokens, D d_model, K head width.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.config.model import ModelConfig
from trainer.models.common.head import Head
from trainer.models.common.mlp import GatedMLP, PlainMLP
from trainer.models.common.norm import make_norm
from trainer.models.interface import LanguageModel, LayerState, State, places, tie_head
from trainer.models.mixers.attention.module import rotary_angles
from trainer.models.mixers.registry import Mixer, find_mixer
from trainer.models.registry import load
from trainer.models.transformer.roles import roles


class Block(nn.Module):
    """One pre-norm layer: x + mixer(norm x), then x + mlp(norm x)."""

    def __init__(self, config: ModelConfig, mixer: Mixer, layer: int) -> None:
        super().__init__()
        D, F = config.d_model, config.ff_width
        self._mixer, self._mixer_norm = mixer.slot, f"{mixer.slot}_norm"
        self.add_module(self._mixer_norm, make_norm(config, D))
        self.add_module(self._mixer, load(mixer.module)(config, layer))
        self.mlp_norm = make_norm(config, D)
        self.mlp = (
            GatedMLP(D, F, bias=config.bias)
            if config.mlp == "swiglu"
            else PlainMLP(D, F, bias=config.bias, tanh=config.mlp == "gelu_tanh")
        )
        self.residual_dropout = nn.Dropout(config.dropout)

    @property
    def mixer(self) -> nn.Module:
        """What mixes tokens. In names of parameters it is called by its slot."""
        mixer: nn.Module = getattr(self, self._mixer)
        return mixer

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        documents: Tensor | None = None,
        state: LayerState | None = None,
    ) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        normed = getattr(self, self._mixer_norm)(x)
        x = x + self.residual_dropout(self.mixer(normed, angles, documents, state))
        mixed: Tensor = x + self.residual_dropout(self.mlp(self.mlp_norm(x)))
        return mixed


class Transformer(LanguageModel):
    """Embedding, blocks, norm and head. See the model's configuration for the choices."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, roles(config))
        self.embed = nn.Embedding(config.vocab_rows, config.d_model)
        self.position = nn.Embedding(config.context_length, config.d_model) if config.position == "learned" else None
        self.embed_dropout = nn.Dropout(config.dropout)
        mixer = find_mixer("attention")
        self.blocks = nn.ModuleList(Block(config, mixer, layer) for layer in range(config.n_layers))
        self.norm = make_norm(config, config.d_model)
        self.head = Head(config.d_model, config.vocab_rows)
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
        for number, block in enumerate(self.blocks):
            x = block(x, angles, documents, None if state is None else state.layers[number])
        normed: Tensor = self.norm(x)
        return normed
