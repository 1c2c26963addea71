"""Initial values that depend on a parameter's name and the seed, and on nothing else.

Neither the order in which modules are built nor the number of ranks that share them changes a value, so a
rank that holds a slice can make the whole parameter, keep its slice, and agree with every other layout.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from trainer.models.roles import Constant, Normal


def generator_for(name: str, seed: int) -> torch.Generator:
    """Return a CPU generator seeded by the name and the seed."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def fill(parameter: Tensor, name: str, initial: Normal | Constant, seed: int) -> None:
    """Fill in place, as the parameter's role says."""
    if isinstance(initial, Constant):
        parameter.fill_(initial.value)
        return
    values = torch.empty(parameter.shape, dtype=torch.float32)
    parameter.copy_(values.normal_(0.0, initial.std, generator=generator_for(name, seed)))
