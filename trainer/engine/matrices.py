"""Muon's matrices, where an engine has spread them over replicas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from trainer.engine.protocol import Fragment
from trainer.optim.muon import Muon, Piece


def hold_spread(optimizer: torch.optim.Optimizer, homes: Sequence[Tensor], held: Iterable[Fragment]) -> None:
    """Tell Muon where its matrices lie; another optimizer need not know. A collective call.

    `homes` are what the optimizer updates, in the same order on all replicas, and `held` this rank's parts of them.
    """
    if isinstance(optimizer, Muon):
        number = {id(home): index for index, home in enumerate(homes)}
        optimizer.hold(homes, {f.name: Piece(number[id(f.home)], *f.held, f.offset) for f in held})
