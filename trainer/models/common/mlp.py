"""The part of a block that works on each token by itself.

Shapes: B batch, T tokens, D d_model, F MLP width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # as GPT-2 has it
    "relu": F.relu,
}


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(silu(gate x) * up x)."""

    def __init__(self, d_model: int, width: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * width, bias=bias)
        self.down = nn.Linear(width, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        projected: Tensor = self.down(F.silu(gate) * up)
        return projected


class PlainMLP(nn.Module):
    """down(f(up x)) with f ReLU (Vaswani et al. 2017), or GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""

    def __init__(self, d_model: int, width: int, *, bias: bool, activation: str) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, width, bias=bias)
        self.down = nn.Linear(width, d_model, bias=bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        projected: Tensor = self.down(self.activation(self.up(x)))
        return projected
