"""A linear layer whose weights are kept as direction and length (Salimans and Kingma 2016, arXiv 1602.07868)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNormLinear(nn.Module):
    """x W' + b, where the weights of output i are length[i] * direction[i] / |direction[i]|."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(outputs, inputs))
        self.length = nn.Parameter(torch.empty(outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs) for x (..., inputs)."""
        scale = self.length / torch.linalg.vector_norm(self.direction, dim=1)
        return F.linear(x, self.direction * scale[:, None], self.bias)
