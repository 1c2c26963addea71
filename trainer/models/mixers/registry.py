"""What mixes tokens in a block, by name. Free of torch: a mixer's module is imported when a model is built.

A mixer is a folder with `roles.py`, free of torch, and `module.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.contract.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Mixer:
    """Where the parts of a mixer are, each as `module:name`, and what a block calls it in names of parameters."""

    name: str
    module: str  # made from (model configuration, number of the layer)
    roles: str  # (model configuration, std, std of outputs) -> roles, named relative to the mixer
    slot: str = "mixer"


MIXERS = {
    "attention": Mixer(
        "attention",
        module="trainer.models.mixers.attention.module:Attention",
        roles="trainer.models.mixers.attention.roles:roles",
        slot="attn",  # as checkpoints have always named it
    ),
}


def find_mixer(name: str) -> Mixer:
    """Return a mixer by its name. Raises `UserError` for one that is not known."""
    if name not in MIXERS:
        raise UserError(f"there is no mixer {name!r}{did_you_mean(name, MIXERS)}")
    return MIXERS[name]
