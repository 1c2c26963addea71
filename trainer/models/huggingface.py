"""Hugging Face layouts of all families: whose model_type it is, and who can hold a configuration.

A family names its converters, each a module with `MODEL_TYPES` (values of `model_type` that it reads), `layout_of`
(the layout of a configuration, or a `UserError` that says why none holds it), `to_huggingface` and `from_huggingface`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trainer.config.model import ModelConfig
from trainer.contract.errors import UserError
from trainer.models.registry import FAMILIES, find_family, load

CONFIG = "config.json"

Tensors = dict[str, Tensor]


def to_huggingface(tensors: Tensors, config: ModelConfig) -> tuple[Tensors, dict[str, Any]]:
    """Return the parameters under Hugging Face names, and the contents of config.json.

    Raises `UserError` where no layout holds the architecture.
    """
    converters = [load(name) for name in find_family(config.family).huggingface]
    if not converters:
        raise UserError(f"no Hugging Face layout is known here for the family {config.family!r}: export safetensors")
    reasons = []
    for converter in converters:
        try:
            converter.layout_of(config)
        except UserError as error:
            reasons.append(str(error))
            continue
        converted: tuple[Tensors, dict[str, Any]] = converter.to_huggingface(tensors, config)
        return converted
    raise UserError(f"no Hugging Face layout holds this model, so export safetensors: {'; '.join(reasons)}")


def from_huggingface(tensors: Tensors, values: Any) -> tuple[Tensors, ModelConfig]:
    """Return the parameters under our names and the architecture, from Hugging Face's tensors and config.json.

    Raises `UserError` that names the keys, the tensors or the shapes that keep the model from being taken exactly.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    by_type = {
        known: load(name) for family in FAMILIES.values() for name in family.huggingface for known in _types(name)
    }
    if not isinstance(kind, str) or kind not in by_type:
        *others, last = by_type
        shown = repr(kind) if len(repr(kind)) < 60 else f"{kind!r:.57}..."
        raise UserError(
            f"{CONFIG}: model_type {shown} is not known here: convert {' or '.join([', '.join(others), last])}"
        )
    converted: tuple[Tensors, ModelConfig] = by_type[kind].from_huggingface(tensors, values)
    return converted


def _types(converter: str) -> tuple[str, ...]:
    types: tuple[str, ...] = load(converter).MODEL_TYPES
    return types
