"""Families of language models by name. Free of torch: each part is imported when it is asked for.

A family is a folder with `config.py` and `cost.py`, free of torch, and `model.py`. A package of yours may add one
through the entry point group `escala.families`, which names a `Family`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from trainer.contract.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Family:
    """Where the parts of a family are, each as `module:name`."""

    name: str
    config: str  # its section of the configuration, a ModelConfig
    cost: str  # the module that counts: see `trainer/models/transformer/cost.py`
    model: str  # a LanguageModel, made from its configuration
    huggingface: tuple[str, ...] = ()  # modules that convert: see `trainer/models/huggingface.py`


FAMILIES = {
    "transformer": Family(
        "transformer",
        config="trainer.models.transformer.config:TransformerConfig",
        cost="trainer.models.transformer.cost",
        model="trainer.models.transformer.model:Transformer",
        huggingface=("trainer.models.transformer.huggingface", "trainer.models.transformer.huggingface_mamba2"),
    ),
    "recurrent": Family(
        "recurrent",
        config="trainer.models.recurrent.config:RecurrentConfig",
        cost="trainer.models.recurrent.cost",
        model="trainer.models.recurrent.model:Recurrent",
    ),
    "convolutional": Family(
        "convolutional",
        config="trainer.models.convolutional.config:ConvolutionalConfig",
        cost="trainer.models.convolutional.cost",
        model="trainer.models.convolutional.model:Convolutional",
    ),
}


def find_family(name: str) -> Family:
    """Return a family by its name. Raises `UserError` for one that is not known."""
    if name in FAMILIES:
        return FAMILIES[name]
    found = {point.name: point for point in entry_points(group="escala.families")}
    if name in found:
        family = found[name].load()
        assert isinstance(family, Family), f"entry point {name!r} of escala.families is no Family"
        return family
    raise UserError(f"there is no family {name!r} of models{did_you_mean(name, [*FAMILIES, *found])}")


@cache
def load(reference: str) -> Any:
    """Return what `module:name` stands for, or the module where no name is given."""
    module, _, name = reference.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def cost_of(family: str) -> Any:
    """Return the module of a family that counts parameters, FLOPs, activations and widths."""
    return load(find_family(family).cost)
