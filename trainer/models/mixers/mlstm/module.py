"""The mLSTM layer of xLSTM (Beck et al. 2024, arXiv 2405.04517; as in xLSTM 7B, Beck et al. 2025, arXiv 2503.13427).

Shapes: B batch, T tokens, D d_model, H heads, K = D / H their width. On tensor ranks H is this rank's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.choice import NoOptions
from trainer.models.common.exponential_gates import Memory, matrix_memory
from trainer.models.common.precision import exact
from trainer.models.common.window import begins
from trainer.models.interface import Context, LayerState
from trainer.models.transformer.config import TransformerConfig

CAP = 15.0  # of the gates' logarithms, by tanh (xLSTM 7B, section 3.2)


class Mlstm(nn.Module):
    """out(norm(y) * sigmoid(gate)), where y reads a matrix memory with an exponential input gate."""

    def __init__(self, config: TransformerConfig, options: NoOptions, layer: int) -> None:
        super().__init__()
        D, H = config.d_model, config.heads
        self.head_dim, self.epsilon = D // H, config.epsilon
        self.query_scale = config.query_scale * self.head_dim**-0.5
        self.qkv = nn.Linear(D, 3 * D, bias=config.bias)
        self.into = nn.Linear(D, H)
        self.forget = nn.Linear(D, H)
        self.gate = nn.Linear(D, D, bias=config.bias)
        self.scale = nn.Parameter(torch.empty(D))
        self.out = nn.Linear(D, D, bias=config.bias)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, D) for x (B, T, D)."""
        first = begins(context.documents, state)
        query, key, value = (exact(part.unflatten(-1, (-1, self.head_dim))) for part in self.qkv(x).chunk(3, dim=-1))
        log_input, forget = (CAP * torch.tanh(exact(gate(x)) / CAP) for gate in (self.into, self.forget))
        before = None if not state or "S" not in state else Memory(state["S"], state["n"], state["m"])
        y, last = matrix_memory(query * self.query_scale, key, value, log_input, F.logsigmoid(forget), first, before)
        if state is not None:
            state["S"], state["n"], state["m"] = last.S, last.n, last.m
        normed = F.rms_norm(y, (self.head_dim,), None, self.epsilon).flatten(2).to(x.dtype)
        mixed: Tensor = self.out(normed * self.scale * self.gate(x).sigmoid())
        return mixed
