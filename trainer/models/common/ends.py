"""Make the embedding and the head of a model; `trainer/models/ends.py` counts them."""

from __future__ import annotations

from torch import nn

from trainer.config.model import ModelConfig
from trainer.models.common.adaptive import AdaptiveEmbedding, AdaptiveHead
from trainer.models.common.head import Head


def make_embedding(config: ModelConfig) -> nn.Module:
    """Return what makes values (B, T, D) of words (B, T)."""
    if config.adaptive is not None and config.adaptive.input:
        return AdaptiveEmbedding(config.adaptive.bands(config.vocab_rows, config.d_model), config.d_model)
    return nn.Embedding(config.vocab_rows, config.d_model)


def make_head(config: ModelConfig) -> Head | AdaptiveHead:
    """Return what makes losses or logits of values (B, T, `head_width`)."""
    if config.adaptive is not None:
        return AdaptiveHead(config.adaptive.bands(config.vocab_rows, config.head_width), config.head_width)
    return Head(config.head_width, config.vocab_rows)
