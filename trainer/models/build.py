"""From a configuration to a model."""

from __future__ import annotations

from trainer.config.model import ModelConfig
from trainer.models.transformer import Transformer


def build_model(config: ModelConfig, seed: int) -> Transformer:
    """Return an initialised model in float32 on the current device context."""
    model = Transformer(config)
    model.reset_parameters(seed)
    return model
