"""From a configuration to a model of its family."""

from __future__ import annotations

from trainer.config.model import ModelConfig
from trainer.models.interface import LanguageModel
from trainer.models.registry import find_family, load


def make_model(config: ModelConfig) -> LanguageModel:
    """Return the model on the current device context, which may be `meta`. Its values are not set yet."""
    model: LanguageModel = load(find_family(config.family).model)(config)
    return model


def build_model(config: ModelConfig, seed: int) -> LanguageModel:
    """Return an initialised model in float32 on the current device context."""
    model = make_model(config)
    model.reset_parameters(seed)
    return model
