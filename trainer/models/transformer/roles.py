"""The roles of a transformer's parameters. Letters: D d_model, F MLP width."""

from __future__ import annotations

import math

from trainer.config.model import ModelConfig
from trainer.models.mixers.registry import find_mixer
from trainer.models.registry import load
from trainer.models.roles import Normal, Role, linear, norm


def roles(config: ModelConfig) -> dict[str, Role]:
    """Return the table of roles.

    Matrices begin with a standard deviation of sqrt(2 / 5D), "small init" (Nguyen and Salazar 2019, arXiv 1910.05895),
    near GPT-2's 0.02 at D = 1000. What a layer adds to the residual stream is divided by sqrt(2 n_layers) (GPT-2).
    Weight decay is for the matrices of the body, as in GPT-3 and Chinchilla.
    """
    D, F = config.d_model, config.ff_width
    std = config.init_std or math.sqrt(2 / (5 * D))
    out_std = std / math.sqrt(2 * config.n_layers)
    mixer = find_mixer("attention")
    mixing = {f"blocks.*.{mixer.slot}.{name}": role for name, role in load(mixer.roles)(config, std, out_std).items()}
    return {
        "embed.weight": Role(Normal(std), "embedding", split="vocab"),
        "position.weight": Role(Normal(std), "embedding"),
        "head.weight": Role(Normal(std), "head", split="vocab", fan_in=D),
        **mixing,
        **linear("blocks.*.mlp.gate_up", std, D, split="column", parts=(F, F)),
        **linear("blocks.*.mlp.up", std, D, split="column"),
        **linear("blocks.*.mlp.down", out_std, F, split="row"),
        **norm("blocks.*_norm"),
        **norm("norm"),
    }
