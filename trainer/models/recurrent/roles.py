"""The roles of the parameters of stacked recurrent layers."""

from __future__ import annotations

from math import sqrt

from trainer.models.ends import end_roles
from trainer.models.initial import Constant, Initial, Normal, Stacked, Uniform
from trainer.models.recurrent.config import RecurrentConfig
from trainer.models.roles import Role, linear
from trainer.models.transfer import transferable


@transferable
def roles(config: RecurrentConfig) -> dict[str, Role]:
    """Return the table of roles.

    Matrices begin uniform within one over the root of the hidden width, as torch's do, and words with the standard
    deviation of what is uniform within 0.1 (Zaremba et al. 2014). Forget gates of an LSTM begin open (Jozefowicz et al.
    2015).
    """
    found = end_roles(config, config.init_std or 0.1 / sqrt(3))
    for layer, (inputs, H) in enumerate(config.layers):
        matrix: Initial = Normal(config.init_std) if config.init_std else Uniform(-1 / sqrt(H), 1 / sqrt(H))
        at, parts = f"blocks.{layer}.mixer", (H,) * (4 if config.cell == "lstm" else 3)
        width = config.kernel(layer) * inputs
        found[f"{at}.input"] = Role(matrix, "matrix", decay=True, parts=parts, fan_in=width)
        biases: Initial = Constant(0.0)
        if config.cell == "lstm":
            found[f"{at}.recurrent"] = Role(matrix, "matrix", decay=True, parts=parts, fan_in=H)
            biases = Stacked(((H, Constant(0.0)), (H, Constant(1.0)), (2 * H, Constant(0.0))))
        found[f"{at}.bias"] = Role(biases, "vector", parts=parts)
    return {**found, **linear("project", config.init_std or 1 / sqrt(config.hidden[-1]), config.hidden[-1])}
