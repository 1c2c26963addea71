"""What each parameter is for: how it begins, whether it decays, how tensor ranks split it, which rule updates it.

A family states its roles as a table from patterns of parameter names to roles; the first pattern that matches counts,
and a parameter that no pattern matches is an error. Nothing is guessed from the end of a name. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from trainer.models.initial import Constant, Initial, Normal

__all__ = ["Constant", "Normal", "Role", "Roles", "linear", "norm", "role_of", "split_of_module"]

# How tensor ranks share a parameter; None: every rank holds it whole.
#   vocab         rows are words: lookups and logits are partial, the loss is computed without gathering them
#   column        rows of the weight (and values of the bias) are shared out: a rank makes a share of the outputs
#   row           columns of the weight are shared out: the ranks' outputs are summed, the bias is added once
#   shared heads  held whole, but used by each rank's own heads: its gradient is summed over tensor ranks
#   shared outputs  a linear layer that is held whole, and whose outputs each rank uses for its own heads: the gradient
#                 of the outputs is summed over tensor ranks
# A parameter that is no linear layer or embedding is cut by rows (column) or columns (row), and its module reads its
# widths off it.
SplitKind = Literal["vocab", "column", "row", "shared heads", "shared outputs"]
WHOLE = (None, "shared heads", "shared outputs")
# Which rule an optimizer may apply: Muon takes matrices, everything else is AdamW's.
Group = Literal["matrix", "embedding", "head", "vector"]
# What a parameter is to the width of the model: a matrix whose inputs, both sides or outputs stay or grow, or a vector.
Kind = Literal["input", "hidden", "output", "vector"]
KINDS: dict[Group, Kind] = {"matrix": "hidden", "embedding": "input", "head": "output", "vector": "vector"}
# With what the number of a matrix's outputs grows, while its inputs grow with the width.
Grows = Literal["width", "heads", "nothing"]


@dataclass(frozen=True)
class Role:
    """What one parameter is for. `fan_in` is the number of inputs that each of its outputs sums over."""

    initial: Initial
    group: Group
    decay: bool = False
    split: SplitKind | None = None
    parts: tuple[int, ...] = ()  # widths of the matrices that lie one after the other along dimension 0, if several
    fan_in: int | None = None
    grows: Grows = "width"

    @property
    def kind(self) -> Kind:
        """What it is to the width, on which the rules of `optim.parametrization` depend."""
        return KINDS[self.group]


Roles = Mapping[str, Role]


def role_of(roles: Roles, name: str) -> Role:
    """Return the role of a parameter by the first pattern that matches its name."""
    for pattern, role in roles.items():
        if fnmatchcase(name, pattern):
            return role
    raise AssertionError(f"parameter {name!r} has no role: add it to the table of its family")


def split_of_module(roles: Roles, module: str) -> Role | None:
    """Return the role of a module's weight, by which the whole module is split; None for a module without one."""
    name = f"{module}.weight"
    return next((role for pattern, role in roles.items() if fnmatchcase(name, pattern)), None)


def linear(
    name: str,
    std: float | Initial,
    fan_in: int,
    *,
    split: SplitKind | None = None,
    parts: tuple[int, ...] = (),
    grows: Grows = "width",
) -> dict[str, Role]:
    """Return the roles of a linear layer of the body: a matrix that decays, and a bias, if there is one, that does not.

    The matrix begins with normal values of this standard deviation, or as it is said.

    The bias of a row-split layer is whole: it is added once, to the sum.
    """
    own = None if split == "row" else split
    initial = std if isinstance(std, Initial) else Normal(std)
    return {
        f"{name}.weight": Role(initial, "matrix", decay=True, split=split, parts=parts, fan_in=fan_in, grows=grows),
        f"{name}.bias": Role(Constant(0.0), "vector", split=own, parts=parts),
    }


def norm(name: str, *, split: SplitKind | None = None) -> dict[str, Role]:
    """Return the roles of a normalisation layer."""
    return {
        f"{name}.weight": Role(Constant(1.0), "vector", split=split),
        f"{name}.bias": Role(Constant(0.0), "vector", split=split),
    }
