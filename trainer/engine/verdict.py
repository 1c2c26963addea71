"""Whether the gradients of a step may be applied, decided on the device: the host need not wait for it.

All ranks come to the same verdict. Optimizers that take `found_inf`, as torch's gradient scaler gives it, leave
parameters, moments and step counts as they are where it is 1.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.parallel.mesh import Mesh


def takes_verdicts(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer applies a verdict by itself: torch's fused AdamW does."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


class Verdict:
    """The verdicts on the steps of one engine. `judge` is called once a step, on all ranks."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.norm: Tensor | None = None  # before clipping, of the last step
        self.refused: Tensor | None = None  # 1.0 where its gradients may not be applied, else 0.0
        # After more refused steps in a row than this, all later ones are refused: the run ends, though whoever ends it
        # reads of it a step late. None: each step is judged by itself.
        self.most: int | None = None
        self._in_a_row: Tensor | None = None

    def judge(self, norm: Tensor, limit: Tensor | None = None) -> Tensor:
        """Return 1.0 where the norm is not finite, or above its limit on any rank; else 0.0. Both are of no dimension.

        Ranks sum the norm in groups, so their last digits may differ: none of them decides alone. Without a limit no
        rank is asked.
        """
        refused = (~torch.isfinite(norm)).float()
        if limit is not None:
            above = (norm > limit).float().reshape(1)
            if self._mesh.world > 1:
                dist.all_reduce(above, op=dist.ReduceOp.MAX)
            refused = torch.maximum(refused, above[0])
        if self.most is not None:
            before = torch.zeros_like(refused) if self._in_a_row is None else self._in_a_row
            refused = torch.maximum(refused, (before > self.most).float())
            self._in_a_row = (before + 1) * refused
        self.norm, self.refused = norm, refused
        return refused
