"""What families answer whose layers no tensor or sequence ranks can share. Free of torch."""

from __future__ import annotations

from trainer.config.model import ModelConfig
from trainer.config.parallel import Degrees
from trainer.contract.errors import UserError


def check_splits(model: ModelConfig, degrees: Degrees) -> None:
    """Raise `UserError` for tensor or sequence ranks."""
    for axis, degree in (("tensor", degrees.tensor), ("sequence", degrees.sequence)):
        if degree > 1:
            raise UserError(
                f"a model of the family {model.family} cannot be split over {degree} {axis} ranks: set "
                f"parallel.{axis} to 1; data ranks and every ZeRO stage work"
            )


def check_documents(model: ModelConfig) -> None:
    """Raise `UserError` where something of one document would reach the next: never here."""
