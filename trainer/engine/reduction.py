"""Sum gradients over replicas during the backward pass, where they stay in the parameters: ZeRO 0 and 1.

Each large gradient is reduced in place as soon as it is there, while the backward pass goes on; the small ones travel
together at the end. torch's DDP does so with buckets.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.parallel.mesh import Group

SMALL = 1 << 14  # elements: below, a collective's latency costs more than copying


class GradientSum:
    """Sums the gradients of a model over a group during one backward pass: `begin`, backward, `finish`.

    All ranks run the same graph, so that gradients arrive in the same order on each.
    """

    def __init__(self, model: nn.Module, group: Group) -> None:
        self.group = group
        self._active = False
        self._small: list[Tensor] = []
        self._underway: list[dist.Work] = []
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def begin(self) -> None:
        """Reduce what the next backward pass leaves: call it before that of the last micro-batch."""
        self._active = True

    def _arrived(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if not self._active or gradient is None:
            return
        if gradient.numel() < SMALL:
            self._small.append(gradient)
        else:
            work = dist.all_reduce(gradient, group=self.group, async_op=True)
            assert work is not None
            self._underway.append(work)

    @torch.no_grad()
    def finish(self) -> None:
        """Reduce the small gradients and wait for all."""
        self._active = False
        if self._small:
            flat = torch.cat([gradient.view(-1) for gradient in self._small])
            dist.all_reduce(flat, group=self.group)
            parts = flat.split([gradient.numel() for gradient in self._small])
            torch._foreach_copy_([gradient.view(-1) for gradient in self._small], list(parts))
        for work in self._underway:
            work.wait()
        self._small, self._underway = [], []
