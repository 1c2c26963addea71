"""Initial values that depend on a parameter's name and the seed, and on nothing else.

Neither the order in which modules are built nor the number of ranks that share them changes a value, so a
rank that holds a slice can make the whole parameter, keep its slice, and agree with every other layout.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator_for(name: str, seed: int) -> torch.Generator:
    """Return a CPU generator seeded by the name and the seed."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def fill_normal(parameter: Tensor, name: str, std: float | None, seed: int) -> None:
    """Fill in place: normal values for matrices, ones for norm weights, zeros for biases."""
    if std is None:
        parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    values = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator_for(name, seed))
    parameter.copy_(values)
