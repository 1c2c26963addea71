"""Which parameters decay: matrices of the body do; norms, biases, embeddings and heads do not."""

from __future__ import annotations

from typing import Any

from torch import nn

UNDECAYED = ("embed.", "position.", "head.")


def decays(name: str) -> bool:
    """Return whether weight decay applies to a parameter of this name (as in GPT-3 and Chinchilla's code bases)."""
    return name.endswith("weight") and "norm" not in name and not name.startswith(UNDECAYED)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the two groups of an optimizer, each in the order of `named_parameters`."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if decays(name)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not decays(name)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
