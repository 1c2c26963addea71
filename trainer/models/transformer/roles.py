"""The roles of the parameters of a stack of blocks. Letters: D d_model, F MLP width."""

from __future__ import annotations

import math
from dataclasses import replace

from trainer.models.ends import end_roles
from trainer.models.initial import Xavier
from trainer.models.mixers.base import kinds_of
from trainer.models.roles import Normal, Role, linear, norm
from trainer.models.transfer import transferable
from trainer.models.transformer.config import TransformerConfig


@transferable
def roles(config: TransformerConfig) -> dict[str, Role]:
    """Return the table of roles.

    Matrices begin with a standard deviation of sqrt(2 / 5D), "small init" (Nguyen and Salazar 2019, arXiv 1910.05895),
    near GPT-2's 0.02 at D = 1000. What a layer adds to the residual stream is divided by sqrt(2 n_layers) (GPT-2), with
    completep by that of the base, for there the forward pass divides.
    Weight decay is for the matrices of the body, as in GPT-3 and Chinchilla.
    """
    D, F = config.d_model, config.ff_width
    std = config.init_std or math.sqrt(2 / (5 * D))
    out_std = std / math.sqrt(2 * config.n_layers / config.deepened)
    scaled = {
        **end_roles(config, std),
        "position.weight": Role(Normal(std), "embedding"),
        **_mixing(config, std, out_std),
        **linear("blocks.*.mlp.gate_up", std, D, split="column", parts=(F, F)),
        **linear("blocks.*.mlp.up", std, D, split="column"),
        **linear("blocks.*.mlp.down", out_std, F, split="row"),
        **norm("blocks.*_norm"),
        **norm("norm"),
    }
    return {name: _begun(role, config.init) for name, role in scaled.items()}


def _begun(role: Role, init: str) -> Role:
    """Return a role whose normal initial values are replaced by those of another rule; what is not normal stays."""
    if init == "scaled" or not isinstance(role.initial, Normal):
        return role
    if init == "careless":
        return replace(role, initial=Normal(1.0))
    return replace(role, initial=Xavier(role.parts)) if role.group == "matrix" else role


def _mixing(config: TransformerConfig, std: float, out_std: float) -> dict[str, Role]:
    """Return the roles of all mixers. One mixer with several options has a table for each layer."""
    kinds = kinds_of(config)
    found: dict[str, Role] = {}
    for kind in kinds:
        alone = sum(kind.mixer.name == other.mixer.name for other in kinds) == 1
        for name, role in kind.cost.roles(std, out_std).items():
            for layer in ("*",) if alone else kind.layers:
                found[f"blocks.{layer}.{kind.mixer.prefix}.{name}"] = role
    return found
