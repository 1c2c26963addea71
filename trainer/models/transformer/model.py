"""A stack of blocks in plain PyTorch; with attention as its mixer, a decoder-only transformer.

It knows nothing of ranks, DeepSpeed or checkpoints. Shapes: B batch, T tokens, D d_model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.models.common.ends import make_embedding, make_head
from trainer.models.common.mlp import GatedMLP, PlainMLP
from trainer.models.common.norm import make_norm
from trainer.models.common.rotary import RotaryTable, rotary_angles
from trainer.models.common.sinusoidal import sinusoids
from trainer.models.interface import Context, LanguageModel, LayerState, State, places, tie_head
from trainer.models.mixers.base import kinds_of
from trainer.models.mixers.registry import find_mixer
from trainer.models.transformer.config import TransformerConfig
from trainer.models.transformer.roles import roles


class Block(nn.Module):
    """One layer: x + mixer(norm x), then x + mlp(norm x), with norms where the configuration places them."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        choice = config.mixers[layer]
        mixer = find_mixer(choice.name)
        self.placement, self.scale = config.norm_placement, config.branch_scale
        self._mixer = mixer.prefix
        self._add_norms(self._mixer, config)
        self.add_module(self._mixer, mixer.module_class(config, choice.options, layer))
        if config.mlp != "none":  # in this order, which optimizers and gradient norms follow
            self._add_norms("mlp", config)
        self.mlp = make_mlp(config)
        self.residual_dropout = nn.Dropout(config.dropout)

    def _add_norms(self, branch: str, config: TransformerConfig) -> None:
        if self.placement != "none":
            self.add_module(f"{branch}_norm", make_norm(config, config.d_model))
        if self.placement == "both":
            self.add_module(f"{branch}_out_norm", make_norm(config, config.d_model))

    @property
    def mixer(self) -> nn.Module:
        """What mixes tokens. In names of parameters it is called by its own name."""
        mixer: nn.Module = getattr(self, self._mixer)
        return mixer

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        x = self._add(x, self._mixer, self.mixer(self._enter(x, self._mixer), context=context, state=state))
        return x if self.mlp is None else self._add(x, "mlp", self.mlp(self._enter(x, "mlp")))

    def _enter(self, x: Tensor, branch: str) -> Tensor:
        """Return what a branch reads."""
        entered: Tensor = getattr(self, f"{branch}_norm")(x) if self.placement in ("pre", "both") else x
        return entered

    def _add(self, x: Tensor, branch: str, added: Tensor) -> Tensor:
        """Return the residual stream with what a branch adds."""
        if self.placement == "both":
            added = getattr(self, f"{branch}_out_norm")(added)
        added = self.residual_dropout(added)
        x = x + (added if self.scale == 1 else self.scale * added)
        after: Tensor = getattr(self, f"{branch}_norm")(x) if self.placement == "post" else x
        return after


def make_mlp(config: TransformerConfig) -> GatedMLP | PlainMLP | None:
    """Return the MLP of a block, if it has one."""
    if config.mlp == "none":
        return None
    if config.mlp == "swiglu":
        return GatedMLP(config.d_model, config.ff_width, bias=config.bias)
    return PlainMLP(config.d_model, config.ff_width, bias=config.bias, activation=config.mlp)


class Transformer(LanguageModel):
    """Embedding, blocks, norm and head. See the model's configuration for the choices."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, roles(config))
        self.embed = make_embedding(config)
        self.position = nn.Embedding(config.context_length, config.d_model) if config.position == "learned" else None
        self.embed_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self._rotary = RotaryTable(config.head_dim, config.rotary_base) if config.position == "rotary" else None
        self.norm = make_norm(config, config.d_model) if config.last_norm else nn.Identity()
        self.head = make_head(config)
        tie_head(self)

    @property
    def state_limit(self) -> int | None:
        """None where no state grows with the tokens, and no table of positions ends."""
        grows = any(kind.cost.state_size().per_token for kind in kinds_of(self.config))
        return self.config.context_length if grows or self.config.position == "learned" else None

    def hidden(self, inputs: Tensor, documents: Tensor | None, positions: Tensor | None, state: State | None) -> Tensor:
        """Return the output of the last block, normed, (B, T, D)."""
        from_zero = positions is None and state is None
        positions = places(inputs, positions, state)
        x = self.embed(inputs)
        if self.position is not None:
            x = x + self.position(positions)
        if self.config.position == "sinusoidal":
            x = x * math.sqrt(self.config.d_model / self.config.widened) + sinusoids(positions, self.config.d_model).to(
                x.dtype
            )
        x = self.embed_dropout(x)
        angles = None
        if self._rotary is not None and from_zero:
            angles = self._rotary.first(inputs.shape[1], inputs)
        elif self._rotary is not None:
            angles = rotary_angles(self._seen(positions, state), self.config.head_dim, self.config.rotary_base)
        context = Context(positions, angles, documents, None if state is None else state.memory)
        for number, block in enumerate(self.blocks):
            # by keyword: hooks of ZeRO 3 look at what comes by place, and know no Context
            x = block(x, context=context, state=None if state is None else state.layers[number])
        normed: Tensor = self.norm(x)
        return normed

    def _seen(self, positions: Tensor, state: State | None) -> Tensor:
        """Return the positions of all tokens that attention makes keys of: those of a memory come before."""
        if state is None or state.memory is None:
            return positions
        return torch.arange(state.memory + len(positions), device=positions.device)

    def carried_state(self) -> State:
        """Return the state before the first token of lanes that are read step after step."""
        return State([{} for _ in self.blocks], memory=self.config.memory_length)
