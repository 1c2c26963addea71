"""The normalisation layers: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019)."""

from __future__ import annotations

from torch import nn

from trainer.models.transformer.config import TransformerConfig


def make_norm(config: TransformerConfig, width: int) -> nn.Module:
    """Return the normalisation that the configuration names, over the last dimension."""
    if config.norm == "layernorm":
        return nn.LayerNorm(width, eps=config.epsilon, bias=config.bias)
    return nn.RMSNorm(width, eps=config.epsilon)
