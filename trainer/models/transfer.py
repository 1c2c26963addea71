"""What width and depth do to each parameter under `mup` and `completep`: the rules of docs/transfer.md. Free of torch.

Letters: m is the width over the base's, r the depth over the base's (1 with mup), g the growth of a matrix's outputs.

Sources: Yang et al. 2022 (arXiv 2203.03466, tables 3 and 8), Dey et al. 2025 (arXiv 2505.01618, table 1). Matrices
whose outputs grow less than the width, such as B and C of Mamba-2, follow the spectral condition that both are cases
of (Yang, Simon, Bernstein 2023, arXiv 2310.17813): a matrix, and each update of it, has the spectral norm
sqrt(outputs / inputs).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import TypeVar

from trainer.config.model import ModelConfig
from trainer.models.initial import Constant, Identity, Initial, Normal, Orthogonal, Uniform, Xavier
from trainer.models.roles import Role, Roles

C = TypeVar("C", bound=ModelConfig)


@dataclass(frozen=True)
class Factors:
    """What the settings of the base are multiplied by for one parameter."""

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0  # AdamW's


def factors(config: ModelConfig, name: str, role: Role, *, muon: bool = False) -> Factors:
    """Return the factors of a parameter. `muon`: Muon updates it, whose updates are orthogonal instead of AdamW's.

    AdamW's update of a matrix is nearly of rank one, so its spectral norm grows with m and the rate falls with 1 / m.
    Muon's, scaled to the same size of an entry, grows with the root of m. Weight decay grows as the rate falls, so that
    their product stays. Gradients shrink as 1 / g, in blocks as 1 / r too, and eps follows them.
    """
    if config.transfer is None:
        return Factors()
    m, g = config.widened, growth(config, role)
    in_block = config.deepened if name.startswith("blocks.") else 1.0
    if role.kind != "hidden":
        return Factors(eps=1 / (m * in_block))
    lr = math.sqrt(g / m) / math.sqrt(m) if muon else 1 / m
    return Factors(lr, 1 / lr, 1 / (g * in_block))


def growth(config: ModelConfig, role: Role) -> float:
    """Return how many times the outputs of a matrix have grown from the base."""
    if role.grows == "width":
        return config.widened
    return config.heads_grown if role.grows == "heads" else 1.0


def transferable(table: Callable[[C], dict[str, Role]]) -> Callable[[C], dict[str, Role]]:
    """Have a family's table of roles begin as its configuration's `transfer` says."""

    @wraps(table)
    def roles(config: C) -> dict[str, Role]:
        own = table(config)
        if config.transfer is None:
            return own
        base: Roles = table(config.at_base())
        return {name: replace(role, initial=_initial(config, role, base[name])) for name, role in own.items()}

    return roles


def _initial(config: ModelConfig, role: Role, base: Role) -> Initial:
    """Return the base's initial value, scaled; what fits itself to a matrix's shape is scaled by what it misses."""
    own, m, g = role.initial, config.widened, growth(config, role)
    if isinstance(own, Orthogonal | Identity | Xavier):  # of spectral norm one, or nearly
        return replace(own, gain=own.gain * math.sqrt(g / m)) if g != m else own
    if role.kind != "hidden":
        return base.initial if isinstance(own, Normal | Uniform | Constant) else own
    factor = math.sqrt(g / m) / math.sqrt(m)
    if isinstance(base.initial, Normal):
        return Normal(base.initial.std * factor)
    if isinstance(base.initial, Uniform):
        return Uniform(base.initial.low * factor, base.initial.high * factor)
    raise AssertionError(f"nothing says how {own} follows the width: extend trainer/models/transfer.py")
