"""Relative positions of Transformer-XL (Dai et al. 2019, arXiv 1901.02860, section 3.3).

The score of query i and key j is ((q_i + u) k_j + (q_i + v) W r_(i-j)) / sqrt(K): r are sinusoids of the distance, W a
matrix, u and v one vector a head each. In this form, distances are not limited to those of training.

Shapes: B batch, T queries, S keys of which the last T are the queries' own, D d_model, H heads, K head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.common.sinusoidal import halves
from trainer.models.transformer.config import TransformerConfig


class RelativePositions(nn.Module):
    """What distances add to the scores of one layer. u and v are the layer's own."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.width, self.head_dim, self.query_scale = config.d_model, config.head_dim, config.query_scale
        self.r = nn.Linear(config.d_model, config.heads * config.head_dim, bias=False)
        self.u = nn.Parameter(torch.empty(config.heads, config.head_dim))
        self.v = nn.Parameter(torch.empty(config.heads, config.head_dim))

    def forward(self, query: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """Return q + u (B, H, T, K), and what is added to its scores (B, H, T, S), for queries (B, H, T, K)."""
        distances = torch.arange(total - 1, -1, -1, device=query.device)
        r = self.r(halves(distances, self.width).to(query.dtype)).view(total, -1, self.head_dim)
        u, v = self.u[:, None], self.v[:, None]
        if self.query_scale != 1:  # as the queries are
            u, v = u * self.query_scale, v * self.query_scale
        by_distance = torch.einsum("bhtk,shk->bhts", query + v, r)
        return query + u, to_keys(by_distance) * self.head_dim**-0.5


def to_keys(by_distance: Tensor) -> Tensor:
    """Return scores by key for scores (B, H, T, S) by distance, from S - 1 down to 0. Those of later keys mean nothing.

    Row t is moved to the left by T - 1 - t: a column before it and another width of rows do that without an index.
    """
    B, H, T, S = by_distance.shape
    padded = F.pad(by_distance, (1, 0)).reshape(B, H, S + 1, T)
    return padded[:, :, 1:].reshape(B, H, T, S)
