"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024), AdamW for the rest.

An update of a matrix (A, B) is scaled by 0.2 sqrt(max(A, B)), which gives it the size of an AdamW update, so that both
share learning rate and weight decay (Liu et al. 2025, arXiv 2502.16982, section 2.2). Parts of a fused matrix
(queries, keys, values; gate and up) are made orthogonal each for itself.

Orthogonality belongs to whole matrices: tensor ranks put their shares together first, and the work is dealt out over
the replicas, each of which broadcasts its results. Under ZeRO replicas hold flat parts of the momentum and of the
weights; what of a matrix lies on several of them is put together for the update alone. FSDP keeps rows of each
parameter, as a DTensor: a flat part as well, which is all of one home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.optim.groups import Group
from trainer.parallel.tensor.local import local

# A quintic whose iteration drives all singular values near one within five steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


@dataclass(frozen=True)
class Matrix:
    """A parameter as Muon sees it: `parts` are the widths along dimension 0 of the whole, usually one."""

    name: str
    parameter: nn.Parameter
    shape: tuple[int, ...]  # of this rank's share
    parts: tuple[int, ...]
    gather: Callable[[Tensor], Tensor]  # this rank's share to the whole
    share: Callable[[Tensor], Tensor]  # and back


@dataclass(frozen=True)
class Piece:
    """The flat range of a matrix that one replica holds, in the flat tensor number `home` from `offset` on."""

    home: int
    start: int
    stop: int
    offset: int


@torch.no_grad()
def orthogonalise(matrix: Tensor, steps: int = STEPS) -> Tensor:
    """Return the nearest matrix with all singular values near one, (A, B), by Newton-Schulz iteration.

    In bfloat16 on a GPU, where that is exact enough; in float32 elsewhere.
    """
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    result: Tensor = wide if x.shape[0] <= x.shape[1] else wide.T
    return result.to(matrix.dtype)


def whole_update(matrix: Matrix, update: Tensor) -> Tensor:
    """Return what is applied to this rank's share for the momentum's share. Tensor ranks call it together."""
    whole = matrix.gather(update)
    parts = [orthogonalise(part) * (0.2 * max(part.shape) ** 0.5) for part in whole.split(matrix.parts)]
    return matrix.share(torch.cat(parts)).contiguous()


class Muon(torch.optim.Optimizer):
    """Momentum and orthogonal updates for groups of matrices; `others` are left to the AdamW inside."""

    def __init__(
        self,
        matrices: Iterable[tuple[Group, Sequence[Matrix]]],
        others: Sequence[Group],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        replica_group: dist.ProcessGroup,
    ) -> None:
        found = list(matrices)
        self.matrices = [matrix for _, members in found for matrix in members]
        self.replica_group = replica_group
        self._homes: list[Tensor] = []  # this replica's flat tensors under ZeRO
        self._pieces: list[dict[str, Piece]] = []  # of each replica, by matrix
        self._inside: dict[int, list[tuple[int, list[int]]]] = {}  # by home: its matrices, and which replicas hold some
        groups = [{**group, "muon": True} for group, _ in found] + [{**group, "muon": False} for group in others]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas})
        self.adam = torch.optim.AdamW(others, lr=lr, betas=betas, fused=True)
        self.adam.state = self.state  # one state for both: checkpoints see one optimizer
        for group in self.param_groups:
            for key, value in self.adam.defaults.items():
                group.setdefault(key, value)

    def hold(self, homes: Sequence[Tensor], pieces: dict[str, Piece]) -> None:
        """Work on flat tensors from now on, as ZeRO keeps them. `pieces` are this replica's. Replicas call it together.

        The homes are in the same order on all replicas, each with the same matrices; a DTensor stands for its shard.
        """
        self._homes = list(homes)
        everyone: list[dict[str, Piece] | None] = [None] * dist.get_world_size(self.replica_group)
        dist.all_gather_object(everyone, pieces, group=self.replica_group)
        self._pieces = [found for found in everyone if found is not None]
        self._inside = {}
        for index, matrix in enumerate(self.matrices):
            holders: dict[int, list[int]] = {}
            for rank, held in enumerate(self._pieces):
                if matrix.name in held:
                    holders.setdefault(held[matrix.name].home, []).append(rank)
            for number, ranks in holders.items():
                self._inside.setdefault(number, []).append((index, ranks))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply the gradients; parameters without one stay as they are. ZeRO calls it for one group at a time."""
        for group in self.param_groups:
            if group["muon"]:
                self._step_flat(group) if self._homes else self._step_matrices(group)
        self.adam.param_groups = [group for group in self.param_groups if not group["muon"] and group["params"]]
        self.adam.step()

    def _momentum_of(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Take a gradient into the momentum; return Nesterov's."""
        assert parameter.grad is not None
        buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        buffer.lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(buffer, group["momentum"])

    def _step_matrices(self, group: dict[str, Any]) -> None:
        ranks, rank = dist.get_world_size(self.replica_group), dist.get_rank(self.replica_group)
        members = {id(parameter) for parameter in group["params"]}
        matrices = [(index, matrix) for index, matrix in enumerate(self.matrices) if id(matrix.parameter) in members]
        updates = []
        for index, matrix in matrices:
            if matrix.parameter.grad is None:
                return  # dropped on all ranks together
            update = self._momentum_of(matrix.parameter, group)
            updates.append(whole_update(matrix, update) if index % ranks == rank else torch.empty_like(update))
        for (index, matrix), update in zip(matrices, updates, strict=True):
            if ranks > 1:
                dist.broadcast(update, group=self.replica_group, group_src=index % ranks)
            _apply(matrix.parameter, update, group)

    def _step_flat(self, group: dict[str, Any]) -> None:
        for home in group["params"]:
            number = next(index for index, other in enumerate(self._homes) if other is home)
            update = self._momentum_of(home, group)
            for index, holders in self._inside.get(number, ()):
                self._orthogonalise_flat(local(update).view(-1), self.matrices[index], holders, index)
            _apply(home, update, group)

    def _orthogonalise_flat(self, update: Tensor, matrix: Matrix, holders: list[int], index: int) -> None:
        """Turn a matrix's part of this replica's flat momentum into its part of the update, in place."""
        rank = dist.get_rank(self.replica_group)
        mine = self._pieces[rank][matrix.name] if rank in holders else None
        part = None if mine is None else update.narrow(0, mine.offset, mine.stop - mine.start)
        if len(holders) == 1:  # nobody else is asked
            if part is not None:
                part.copy_(whole_update(matrix, part.view(matrix.shape)).view(-1))
            return
        flat = update.new_zeros(torch.Size(matrix.shape).numel())
        if mine is not None and part is not None:
            flat[mine.start : mine.stop] = part
        dist.all_reduce(flat, group=self.replica_group)  # each value is on one replica, so the sum is exact
        worker = holders[index % len(holders)]
        if rank == worker:
            flat = whole_update(matrix, flat.view(matrix.shape)).view(-1)
        dist.broadcast(flat, group=self.replica_group, group_src=worker)
        if mine is not None and part is not None:
            part.copy_(flat[mine.start : mine.stop])


def _apply(parameter: Tensor, update: Tensor, group: dict[str, Any]) -> None:
    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])
