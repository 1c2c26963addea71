"""A decoder-only transformer in plain PyTorch. It knows nothing of ranks, DeepSpeed or checkpoints.

Shapes: B batch, T tokens, D d_model, F MLP width, V vocabulary rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.model import ModelConfig
from trainer.models.attention import Attention, KeyValueCache, rotary_angles
from trainer.models.head import Head
from trainer.models.initial import fill_normal
from trainer.models.norm import make_norm

# How tensor ranks split each module; the words are explained in trainer/parallel/tensor/split.py.
# What is not named is whole.
TENSOR_PLAN = {
    "embed": "vocab",
    "head": "vocab",
    "blocks.*.attn.qkv": "column qkv",
    "blocks.*.attn.[qkv]": "column",
    "blocks.*.attn.[qk]_norm": "shared heads",
    "blocks.*.attn.out": "row",
    "blocks.*.mlp.gate_up": "column pair",
    "blocks.*.mlp.up": "column",
    "blocks.*.mlp.down": "row",
}


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(silu(gate x) * up x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.ff_width, bias=config.bias)
        self.down = nn.Linear(config.ff_width, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        projected: Tensor = self.down(F.silu(gate) * up)
        return projected


class PlainMLP(nn.Module):
    """down(gelu(up x)), GELU exact or in the tanh form of GPT-2 (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.ff_width, bias=config.bias)
        self.down = nn.Linear(config.ff_width, config.d_model, bias=config.bias)
        self.approximate = "tanh" if config.mlp == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.down(F.gelu(self.up(x), approximate=self.approximate))
        return projected


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = make_norm(config, config.d_model)
        self.attn = Attention(config, layer)
        self.mlp_norm = make_norm(config, config.d_model)
        self.mlp = GatedMLP(config) if config.mlp == "swiglu" else PlainMLP(config)
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        documents: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        x = x + self.residual_dropout(self.attn(self.attn_norm(x), angles, documents, cache))
        mixed: Tensor = x + self.residual_dropout(self.mlp(self.mlp_norm(x)))
        return mixed


class Transformer(nn.Module):
    """Embedding, blocks, norm and head. See `trainer/config/model.py` for the choices."""

    tensor_plan = TENSOR_PLAN

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_rows, config.d_model)
        self.position = nn.Embedding(config.context_length, config.d_model) if config.position == "learned" else None
        self.embed_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = make_norm(config, config.d_model)
        self.head = Head(config.d_model, config.vocab_rows)
        if config.tied_embeddings:
            self.head.weight = self.embed.weight
        self.label_smoothing = 0.0  # of the training loss; evaluation is never smoothed
        # Tensor ranks hold a part of the logits each, and put their own loss here: (logits, targets, smoothing) ->
        # losses.
        self.token_loss: Callable[[Tensor, Tensor, float], Tensor] | None = None

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Return the loss of each token (B, T), or the logits (B, T, V) where no targets are given.

        `inputs` and `targets` are (B, T). `positions` (T) defaults to the tokens' places in the sequence;
        a rank that holds a part of the sequence passes the places of its part.
        """
        if positions is None:
            start = cache.length if cache is not None else 0
            positions = torch.arange(start, start + inputs.shape[1], device=inputs.device)
        x = self.embed(inputs)
        if self.position is not None:
            x = x + self.position(positions)
        x = self.embed_dropout(x)
        angles = None
        if self.config.position == "rotary":
            angles = rotary_angles(positions, self.config.head_dim, self.config.rotary_base)
        for block in self.blocks:
            x = block(x, angles, documents, cache)
        x = self.norm(x)
        smoothing = self.label_smoothing if self.training else 0.0
        if targets is not None and self.token_loss is not None:
            return self.token_loss(self.head(x), targets, smoothing)
        result: Tensor = self.head(x) if targets is None else self.head(x, targets, smoothing)
        return result

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Fill every parameter from a generator of its own, seeded by (seed, name): see `trainer/models/initial.py`."""
        for name, parameter in self.named_parameters():
            fill_normal(parameter, name, initial_std(self.config, name), seed)


def initial_std(config: ModelConfig, name: str) -> float | None:
    """Return the standard deviation of a parameter's initial values; None for norms and biases.

    Matrices: sqrt(2 / 5d), "small init" (Nguyen and Salazar 2019, arXiv 1910.05895), near GPT-2's 0.02 at
    d = 1000. The outputs of attention and MLP are divided by sqrt(2 n_layers) (GPT-2).
    """
    if name.endswith("bias") or "norm" in name:
        return None
    std = config.init_std or math.sqrt(2 / (5 * config.d_model))
    return std / math.sqrt(2 * config.n_layers) if name.endswith(("attn.out.weight", "mlp.down.weight")) else std
