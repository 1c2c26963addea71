"""Whether what a manifest says fits together: every value of every parameter has exactly one home. Free of torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:
    from trainer.checkpoint.manifest import Manifest, Share


class _Data(BaseModel):
    """The position in the data: what a run that goes on must find there."""

    model_config = ConfigDict(strict=True)
    step: int = Field(ge=0)
    data_hash: str
    skipped: list[Annotated[list[int], Field(min_length=2, max_length=2)]]
    shards: dict[str, int]


class _Carried(BaseModel):
    """How the lanes whose states are kept were shared out."""

    model_config = ConfigDict(strict=True)
    lanes: int = Field(gt=0)
    data: int = Field(gt=0)
    tensor: int = Field(gt=0)

    @model_validator(mode="after")
    def _shared_out(self) -> _Carried:
        if self.lanes % self.data:
            raise ValueError(f"{self.data} data ranks do not share {self.lanes} lanes")
        return self


class _State(BaseModel):
    """What a run keeps beside its parameters. Each part may be missing."""

    model_config = ConfigDict(strict=True)
    identity: dict[str, str] = {}
    settings: dict[str, Any] = {}
    data: _Data | None = None
    carried: _Carried | None = None


def contents_problem(manifest: Manifest) -> str | None:
    """Return what does not fit together, or None."""
    try:
        _State.model_validate(manifest.state)
    except ValidationError as error:
        first = error.errors()[0]
        return f"state.{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if not manifest.parameters:
        return "it names no parameters"
    homes: dict[str, list[Share]] = defaultdict(list)
    for file in manifest.files.values():
        for name, share in file.shares.items():
            homes[name].append(share)
    if unknown := set(homes) - set(manifest.parameters):
        return f"a file holds {min(unknown)}, which is no parameter"
    for name, shape in manifest.parameters.items():
        if problem := _coverage_problem(shape, homes[name]):
            return f"{name}, of shape {list(shape)}: {problem}"
    return None


def _coverage_problem(shape: tuple[int, ...], shares: list[Share]) -> str | None:
    """Return why the shares do not hold each value of a parameter exactly once, or None."""
    if not shares:
        return "no file holds it"
    ranges: dict[tuple[tuple[int, int], ...], list[tuple[int, int]]] = defaultdict(list)
    dims = {share.dim for share in shares}
    if len(dims) > 1:
        return "it is split along several dimensions"
    dim = shares[0].dim
    if dim is not None and dim >= len(shape):
        return f"it has no dimension {dim}"
    for share in shares:
        ranges[share.pieces].append(share.range)
    width = 1 if dim is None else shape[dim]
    pieces = [(0, 1)] if dim is None else [piece for cut in ranges for piece in cut]
    if dim is None and list(ranges) != [()]:
        return "it has pieces of no dimension"
    if not _tiles(pieces, width):
        return f"its pieces do not make up dimension {dim}"
    for cut, held in ranges.items():
        share_width = 1 if dim is None else sum(stop - start for start, stop in cut)
        if not _tiles(held, math.prod(shape) // max(width, 1) * share_width):
            return "its ranges do not make up the whole"
    return None


def _tiles(ranges: Iterable[tuple[int, int]], stop: int) -> bool:
    """Return whether ranges, none of them empty, cover [0, stop) without gap or overlap."""
    at = 0
    for begin, end in sorted(ranges):
        if begin != at or end <= begin:
            return False
        at = end
    return at == stop
