"""What a mixer says of itself without torch: options, counts, roles, splits, memory, speed.

A mixer subclasses `MixerCost` in the `cost.py` of its folder. One object stands for a kind of layers of one model.
What is not overridden is refused or left out: a mixer that says nothing of tensor ranks cannot be split over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from trainer.config.base import Section
from trainer.config.choice import NoOptions
from trainer.config.parallel import Degrees
from trainer.contract.errors import UserError
from trainer.models.common.kept import Kept
from trainer.models.mixers.registry import Mixer, find_mixer
from trainer.models.roles import Role
from trainer.plan.shape import MixerShape

if TYPE_CHECKING:
    from trainer.models.transformer.config import TransformerConfig

O = TypeVar("O", bound=Section)  # noqa: E741


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of one layer's mixer."""

    own: int  # of matrices, biases and everything else but norms
    norms: int = 0  # every tensor rank holds them whole
    whole: int = 0  # of `own`, what every tensor rank holds whole


@dataclass(frozen=True)
class Flops:
    """FLOPs of one token of training in one layer, forward and backward: three times those of the forward pass."""

    matrices: int  # 6 for each parameter of a matrix, and what else does not grow with the context
    context: int = 0  # what grows with the context, at its full length


@dataclass(frozen=True)
class StateSize:
    """Values that a layer keeps of one sequence while it decodes."""

    fixed: int = 0
    per_token: int = 0


class MixerCost(Generic[O]):
    """What a mixer says of itself. `config` is the model's section, `options` are those of the mixer."""

    Options: ClassVar[type[Section]] = NoOptions
    settings: ClassVar[frozenset[str]] = frozenset()  # it reads of n_heads, n_kv_heads, qk_norm, fused_qkv
    positions: ClassVar[frozenset[str]] = frozenset()  # it applies of rotary, alibi
    respects_documents: ClassVar[bool] = False  # nothing of a document reaches the next one

    def __init__(self, name: str, config: TransformerConfig, options: O) -> None:
        self.name, self.config, self.options = name, config, options

    def check(self) -> None:
        """Raise ValueError where the model's shape and the options do not fit."""

    def parameters(self) -> Parameters:
        """Count the parameters of one layer."""
        raise NotImplementedError

    def flops(self) -> Flops:
        """Count the FLOPs of one token in one layer at the full context length."""
        raise NotImplementedError

    def activations(self, kept: Kept) -> int:
        """Return the bytes that one token leaves in one layer on one rank.

        The input (B, T, D) is counted by the block; a mixer that does not keep it takes it off.
        """
        raise NotImplementedError

    def roles(self, std: float, out_std: float) -> dict[str, Role]:
        """Return the roles of its parameters, named relative to the mixer.

        `std` is the standard deviation of initial values of a matrix with d_model inputs, `out_std` that of the matrix
        whose output joins the residual stream.
        """
        raise NotImplementedError

    def shape(self) -> MixerShape:
        """Return what the time of a step depends on."""
        raise NotImplementedError

    def state_size(self) -> StateSize:
        """Return what decoding keeps of one sequence in one layer, that which keeps most."""
        return StateSize()

    def shared_widths(self) -> dict[str, int] | None:
        """Return the widths that tensor ranks share, by the name of their setting; None where they cannot share."""
        return None

    def check_splits(self, degrees: Degrees) -> None:
        """Raise `UserError` where the tensor and sequence ranks cannot share the mixer."""
        if degrees.sequence > 1:
            raise UserError(
                f"the mixer {self.name} reads a sequence in order, so sequence ranks cannot share it: set "
                "parallel.sequence to 1, or model.mixer to attention"
            )
        widths = self.shared_widths()
        if degrees.tensor > 1 and widths is None:
            raise UserError(
                f"the mixer {self.name} cannot be split over {degrees.tensor} tensor ranks: set parallel.tensor to 1; "
                "data ranks and every ZeRO stage work"
            )
        for setting, width in (widths or {}).items():
            if width % degrees.tensor:
                raise UserError(
                    f"{setting} {width} is not a multiple of the tensor degree {degrees.tensor}: change one of them"
                )

    def fp8_sides(self, tensor: int) -> dict[str, int]:
        """Return the sides of the matrices that a tensor rank multiplies in fp8, by name."""
        return {}


@dataclass(frozen=True)
class Kind:
    """A mixer with its options, and the layers that it has in a model."""

    mixer: Mixer
    cost: MixerCost[Section]
    layers: tuple[int, ...]


def kinds_of(config: TransformerConfig) -> list[Kind]:
    """Return the mixers of a model in the order in which they first come."""
    by_layer = config.mixers
    found = []
    for choice in dict.fromkeys(by_layer):
        mixer = find_mixer(choice.name)
        layers = tuple(layer for layer, other in enumerate(by_layer) if other == choice)
        found.append(Kind(mixer, mixer.cost_class(mixer.name, config, choice.options), layers))
    return found
