"""What the engine asks of a batch, and the checks that each rank was given the right one.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.contract.errors import UserError
from trainer.parallel.mesh import Mesh

if TYPE_CHECKING:
    from trainer.models.interface import State


class Batch(Protocol):
    """One forward pass of one data rank. Tensor and sequence ranks of a data rank are given the same one."""

    @property
    def inputs(self) -> Tensor:
        """(B, T) int64."""

    @property
    def targets(self) -> Tensor:
        """(B, T) int64: what follows each input."""

    @property
    def weights(self) -> Tensor | None:
        """(B, T) float32, or None on every rank for all ones."""

    @property
    def documents(self) -> Tensor | None:
        """(B, T) int32: the number of each token's document, or None."""

    @property
    def begins(self) -> Tensor | None:
        """(B) bool: which sequences do not follow those of the step before; None: all do."""


@dataclass(frozen=True)
class LocalBatch:
    """The tokens (B, T / sequence ranks) of one rank on its device; documents stay whole, attention needs them so."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None
    documents: Tensor | None
    positions: Tensor | None
    state: State | None = None  # of what the sequences' lanes have read before


def local_part(batch: Batch, mesh: Mesh, device: torch.device, state: State | None = None) -> LocalBatch:
    """Move this rank's part of the sequence to its device. A state is there already."""

    def part(values: Tensor) -> Tensor:
        if mesh.sp_size > 1:
            length = values.shape[1] // mesh.sp_size
            values = values[:, mesh.sp_rank * length : (mesh.sp_rank + 1) * length].contiguous()
        return values.to(device, non_blocking=True)

    positions = None
    if mesh.sp_size > 1:
        length = batch.inputs.shape[1] // mesh.sp_size
        positions = torch.arange(mesh.sp_rank * length, (mesh.sp_rank + 1) * length, device=device)
    return LocalBatch(
        inputs=part(batch.inputs),
        targets=part(batch.targets),
        weights=None if batch.weights is None else part(batch.weights),
        documents=None if batch.documents is None else batch.documents.to(device, non_blocking=True),
        positions=positions,
        state=state,
    )


def check_ids(batch: Batch, vocab_size: int) -> None:
    """Raise UserError where a token is outside the model's vocabulary.

    On one rank a lookup beyond the embedding's rows fails by itself. Tensor ranks mask the ids that are not theirs, and
    each takes an id that nobody has for another's. Only tokens in host memory are checked: reading them back from a GPU
    would wait for it.
    """
    for tokens in (batch.inputs, batch.targets):
        if tokens.device.type == "cpu" and tokens.numel():
            largest = tokens.numpy().view(np.uint64).max()  # what is below 0 is above all others so
            if largest >= vocab_size:
                raise UserError(
                    f"a batch holds token {largest.view(np.int64)}, outside the model's vocabulary of {vocab_size}: "
                    "the data were made with another tokenizer, or before ids were measured; remove the set, prepare "
                    "it again, and leave model.vocab_size out"
                )


def global_weight(batches: Sequence[Batch], mesh: Mesh, device: torch.device) -> float | Tensor:
    """Return the sum of token weights of one step over all data ranks. Without weights no rank is asked."""
    if all(batch.weights is None for batch in batches):
        return float(sum(batch.targets.numel() for batch in batches) * mesh.dp_size)
    sums = []
    for batch in batches:
        assert batch.weights is not None, "weights are given for all micro-batches or for none"
        sums.append(batch.weights.sum(dtype=torch.float64))
    total = reduce(torch.add, sums).to(device, non_blocking=True)
    if mesh.data_group is not None:
        dist.all_reduce(total, group=mesh.data_group)
    return total.clamp_min(1e-9).float()


def check_distribution(batches: Sequence[Batch], mesh: Mesh, device: torch.device) -> None:
    """Assert that one data rank's ranks were fed the same tokens and no two data ranks the same.

    Wrong feeding trains without an error and with a wrong batch, so the first step of a run compares hashes.
    """
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.inputs.cpu().numpy().tobytes())
    mine = torch.tensor(int.from_bytes(digest.digest()[:7], "little"), dtype=torch.int64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(mesh.world)]
    dist.all_gather(everyone, mine)
    seen: dict[int, int] = {}
    for rank, value in enumerate(int(v) for v in everyone):
        data = mesh.degrees.coordinates(rank)[0]
        if data in seen and seen[data] != value:
            raise RuntimeError(f"rank {rank} was fed other tokens than the first rank of data rank {data}")
        seen[data] = value
    if len(set(seen.values())) < len(seen):
        raise RuntimeError(f"two of the {len(seen)} data ranks were fed the same tokens: shard data by data rank")
