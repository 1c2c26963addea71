"""What mixes tokens in a block, by name. Free of torch: a mixer's module is imported when a model is built.

A mixer is a folder with `cost.py`, free of torch, and `module.py`. A package of yours may add one through the entry
point group `escala.mixers`, which names a `Mixer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from trainer.contract.errors import UserError, did_you_mean
from trainer.models.registry import load

if TYPE_CHECKING:
    from trainer.models.mixers.base import MixerCost


@dataclass(frozen=True)
class Mixer:
    """Where the parts of a mixer are, each as `module:name`, and what a block calls it in names of parameters."""

    name: str
    cost: str  # a MixerCost: options, counts, roles, splits
    module: str  # an nn.Module, made from (model configuration, options, number of the layer)
    slot: str = ""  # default: its name

    @property
    def cost_class(self) -> type[MixerCost[Any]]:
        """What the mixer says of itself without torch."""
        found: type[MixerCost[Any]] = load(self.cost)
        return found

    @property
    def module_class(self) -> Callable[..., Any]:
        """What makes the module. Imports torch."""
        found: Callable[..., Any] = load(self.module)
        return found

    @property
    def prefix(self) -> str:
        """What a block calls it."""
        return self.slot or self.name


def _shipped(name: str, stem: str, slot: str = "") -> Mixer:
    """Return a mixer of this package, whose classes are called `<stem>Cost` and `<stem>`."""
    folder = f"trainer.models.mixers.{name}"
    return Mixer(name, f"{folder}.cost:{stem}Cost", f"{folder}.module:{stem}", slot)


MIXERS = {
    "attention": _shipped("attention", "Attention", slot="attn"),  # as checkpoints have always named it
    "gated_conv": _shipped("gated_conv", "GatedConv"),
    "temporal_conv": _shipped("temporal_conv", "TemporalConv"),
    "lstm": _shipped("lstm", "Lstm"),
    "qrnn": _shipped("qrnn", "Qrnn"),
    "min_gru": _shipped("min_gru", "MinGru"),
    "mamba2": _shipped("mamba2", "Mamba2"),
    "gated_delta": _shipped("gated_delta", "GatedDelta"),
    "mlstm": _shipped("mlstm", "Mlstm"),
}


def find_mixer(name: str) -> Mixer:
    """Return a mixer by its name. Raises `UserError` for one that is not known."""
    if name in MIXERS:
        return MIXERS[name]
    found = {point.name: point for point in entry_points(group="escala.mixers")}
    if name in found:
        mixer = found[name].load()
        assert isinstance(mixer, Mixer), f"entry point {name!r} of escala.mixers is no Mixer"
        return mixer
    known = [*MIXERS, *found]
    raise UserError(f"there is no mixer {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
