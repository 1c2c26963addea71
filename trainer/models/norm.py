"""The normalisation layers: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019)."""

from __future__ import annotations

from torch import nn

from trainer.config.model import ModelConfig


def make_norm(config: ModelConfig, width: int) -> nn.Module:
    """Return the normalisation that the configuration names, over the last dimension."""
    if config.norm == "layernorm":
        return nn.LayerNorm(width, eps=config.epsilon, bias=config.bias)
    return nn.RMSNorm(width, eps=config.epsilon)
