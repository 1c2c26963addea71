"""The roles of the parameters of residual blocks of convolutions."""

from __future__ import annotations

from math import sqrt

from trainer.models.convolutional.config import ConvolutionalConfig
from trainer.models.ends import end_roles
from trainer.models.initial import Constant, Normal
from trainer.models.roles import Role, linear
from trainer.models.transfer import transferable


@transferable
def roles(config: ConvolutionalConfig) -> dict[str, Role]:
    """Return the table of roles.

    Weights begin such that what a unit gives has the variance of what it reads: a gate halves values (Gehring et al.
    2017, arXiv 1705.03122, appendix A), a rectifier halves the variance (He et al. 2015). Under weight norm, directions
    do not decay, for their length means nothing.
    """
    found = end_roles(config, config.init_std or 0.1)
    gated, gain = (2, 4.0) if config.unit == "glu" else (1, 2.0)
    for number, block in enumerate(config.residual_blocks):
        for place, conv in enumerate(block):
            at, fan_in = f"blocks.{number}.mixer.{place}", conv.kernel * conv.inputs
            std, parts = config.init_std or sqrt(gain / fan_in), (conv.outputs,) * gated
            if config.weight_norm:
                found[f"{at}.direction"] = Role(Normal(std), "matrix", parts=parts, fan_in=fan_in)
                found[f"{at}.length"] = Role(Constant(std * sqrt(fan_in)), "vector", parts=parts)
                found[f"{at}.bias"] = Role(Constant(0.0), "vector", parts=parts)
            else:
                found |= linear(at, std, fan_in, parts=parts)
        found |= linear(f"blocks.{number}.past", 1 / sqrt(block[0].inputs), block[0].inputs)
    return {
        **found,
        **linear("enter", 1 / sqrt(config.d_model), config.d_model),
        **linear("project", 1 / sqrt(config.last_width), config.last_width),
    }
