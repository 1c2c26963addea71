"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024), AdamW for the rest.

An update of a matrix (A, B) is scaled by 0.2 sqrt(max(A, B)), which gives it the size of an AdamW update, so that both
share learning rate and weight decay (Liu et al. 2025, arXiv 2502.16982, section 2.2). Parts of a fused matrix
(queries, keys, values; gate and up) are made orthogonal each for itself.

Orthogonality belongs to whole matrices: tensor ranks put their shares together first, and the work is dealt out over
the replicas, each of which broadcasts its results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# A quintic whose iteration drives all singular values near one within five steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


@dataclass(frozen=True)
class Matrix:
    """A parameter as Muon sees it: `parts` are the widths along dimension 0 of the whole, usually one."""

    parameter: nn.Parameter
    parts: tuple[int, ...]
    gather: Callable[[Tensor], Tensor]  # this rank's share to the whole
    share: Callable[[Tensor], Tensor]  # and back


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


class Muon(torch.optim.Optimizer):
    """Momentum and orthogonal updates for `matrices`; parameters of `others` are left to the AdamW inside."""

    def __init__(
        self,
        matrices: Iterable[Matrix],
        others: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        replica_group: dist.ProcessGroup,
    ) -> None:
        self.matrices = list(matrices)
        self.replica_group = replica_group
        group = {"params": [m.parameter for m in self.matrices], "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([group, *others], {"lr": lr, "momentum": 0.0, "betas": betas, "eps": eps})
        self.adam = torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps, fused=True)
        self.adam.param_groups = self.param_groups[1:]
        self.adam.state = self.state  # one state for both: checkpoints see one optimizer
        for other in self.adam.param_groups:
            for key, value in self.adam.defaults.items():
                other.setdefault(key, value)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply the gradients; parameters without one stay as they are."""
        self._step_matrices(self.param_groups[0])
        self.adam.step()

    def _step_matrices(self, group: dict[str, Any]) -> None:
        ranks, rank = dist.get_world_size(self.replica_group), dist.get_rank(self.replica_group)
        updates = []
        for index, matrix in enumerate(self.matrices):
            parameter = matrix.parameter
            if parameter.grad is None:
                return  # dropped on all ranks together
            buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            buffer.lerp_(parameter.grad, 1 - group["momentum"])
            update = parameter.grad.lerp(buffer, group["momentum"])  # Nesterov
            updates.append(self._whole_update(matrix, update) if index % ranks == rank else torch.empty_like(update))
        for index, (matrix, update) in enumerate(zip(self.matrices, updates, strict=True)):
            if ranks > 1:
                dist.broadcast(update, group=self.replica_group, group_src=index % ranks)
            matrix.parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])

    def _whole_update(self, matrix: Matrix, update: Tensor) -> Tensor:
        whole = matrix.gather(update)
        parts = [orthogonalise(part) * (0.2 * max(part.shape) ** 0.5) for part in whole.split(matrix.parts)]
        return matrix.share(torch.cat(parts)).contiguous()
