"""Where one tensor rank's share of a parameter lies in the whole, as its role says (`trainer/models/roles.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.models.roles import WHOLE, Role


@dataclass(frozen=True)
class Split:
    """Where the values of one tensor rank's share lie in the whole parameter.

    `pieces` are (start, stop) ranges along `dim` of the whole; the share is their concatenation in this order.
    A replicated parameter has `dim` None and no pieces.
    """

    shape: tuple[int, ...]
    dim: int | None = None
    pieces: tuple[tuple[int, int], ...] = ()

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Return the shape of one tensor rank's part."""
        if self.dim is None:
            return self.shape
        width = sum(stop - start for start, stop in self.pieces)
        return (*self.shape[: self.dim], width, *self.shape[self.dim + 1 :])


def split_parameter(role: Role, shape: tuple[int, ...], *, tp_rank: int, tp_size: int) -> Split:
    """Return the share of one tensor rank. All widths must be multiples of `tp_size` (see `check_model_splits`)."""
    if tp_size == 1 or role.split in WHOLE:
        return Split(shape)
    dim = 1 if role.split == "row" else 0
    widths = role.parts or (shape[dim],)
    assert sum(widths) == shape[dim], f"parts {widths} of {shape}"
    pieces, offset = [], 0
    for width in widths:
        assert width % tp_size == 0, f"{width} over {tp_size} tensor ranks"
        share = width // tp_size
        pieces.append((offset + tp_rank * share, offset + (tp_rank + 1) * share))
        offset += width
    return Split(shape, dim, tuple(pieces))
