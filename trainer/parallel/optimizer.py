"""The optimizer that DeepSpeed wraps: torch's own, which need no compiler on the machine."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainer.config.optim import OptimConfig

UNDECAYED = ("embed.", "position.", "head.")


def decays(name: str) -> bool:
    """Return whether weight decay applies to a parameter: to matrices of the body, as in GPT-3 and Chinchilla."""
    return name.endswith("weight") and "norm" not in name and not name.startswith(UNDECAYED)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the two groups of an optimizer, each in the order of `named_parameters`."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if decays(name)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not decays(name)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(config: OptimConfig, model: nn.Module, lr: float, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that this rank holds."""
    groups = parameter_groups(model, config.weight_decay)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.betas[0])
    return torch.optim.AdamW(groups, lr=lr, betas=config.betas, eps=config.eps, fused=True)
