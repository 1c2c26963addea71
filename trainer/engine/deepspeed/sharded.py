"""DeepSpeed's engine behind our protocol: ZeRO 0 to 3, with the gradient sums and the norm that it leaves to us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainer.engine.batch import LocalBatch
from trainer.engine.clip import clip, gradient_norm
from trainer.engine.deepspeed import internals
from trainer.engine.protocol import Fragment
from trainer.engine.reduction import GradientSum
from trainer.engine.verdict import Verdict, takes_verdicts
from trainer.optim.groups import set_rates
from trainer.parallel.mesh import Mesh


class DeepSpeedSharded:
    """A model and its optimizer inside `deepspeed.initialize`'s engine. See `trainer/engine/protocol.py`."""

    def __init__(self, ds: Any, mesh: Mesh, zero_stage: int, clip_norm: float, *, offloads: bool = False) -> None:
        self.ds, self.mesh, self.zero_stage, self.clip_norm = ds, mesh, zero_stage, clip_norm
        self._sum = (
            GradientSum(self.module, mesh.replica_group) if internals.sums_in_place(ds, mesh, zero_stage) else None
        )
        self.verdict = Verdict(mesh)
        self._limit: Tensor | None = None  # of the norm in this step
        # With offload DeepSpeed takes the norm on the host, and its Adam there takes no verdict.
        self.waits = offloads or not takes_verdicts(ds.basic_optimizer)
        if zero_stage:
            internals.judge_norm(ds.optimizer, zero_stage, self._judged)
            if not self.waits:
                internals.check_no_gradients(ds.optimizer)
        if self._sum is not None and zero_stage == 1:
            internals.reduce_by(self._sum.finish, ds.optimizer)

    @property
    def module(self) -> nn.Module:
        """The model; under tensor parallelism and ZeRO 3 its parameters are shares."""
        module: nn.Module = self.ds.module
        return module

    @property
    def mean_over(self) -> int:
        """DeepSpeed takes the mean over replicas where it reduces; our sums do not."""
        return self.mesh.replica_size if self._sum is None else 1

    def set_rates(self, lr: float, *, decay_share: float) -> None:
        """Set the learning rate of all groups, and weight decay times a share."""
        set_rates(self.ds.optimizer.param_groups, lr, decay_share=decay_share)

    def forward(self, batch: LocalBatch) -> Tensor:
        """Return the loss of each token."""
        losses: Tensor = self.ds(
            batch.inputs, batch.targets, documents=batch.documents, positions=batch.positions, state=batch.state
        )
        return losses

    def backward(self, objective: Tensor, *, last: bool) -> None:
        """Add a gradient; sum over replicas after the last."""
        self.ds.set_gradient_accumulation_boundary(last)  # a batch that rises has fewer micro-batches at first
        if last and self._sum is not None:
            self._sum.begin()
        self.ds.backward(objective, scale_wrt_gas=False)
        if last and self._sum is not None:
            self._sum.finish()

    @torch.no_grad()
    def update(self, *, last: bool, limit: Tensor | None = None) -> None:
        """End a micro-batch; clip and update after the last, unless the norm is above the limit."""
        self._limit = limit
        if last:
            self.verdict.norm = self.verdict.refused = None
        if last and self.zero_stage == 0:
            self._clip()
        with nullcontext() if self.waits else internals.trust_norms():
            self.ds.step()

    def _clip(self) -> None:
        """Clip where DeepSpeed has no part in it. Without gradients the optimizer leaves every parameter as it is."""
        norm = gradient_norm(self.module, self.mesh)
        self._judged(norm)
        clip([p.grad for p in self.module.parameters() if p.grad is not None], norm, self.clip_norm)
        assert self.verdict.refused is not None
        if self.waits and bool(self.verdict.refused):
            for parameter in self.module.parameters():
                parameter.grad = None

    def _judged(self, norm: Tensor) -> Tensor:
        """Return the norm, or infinity where the update is refused; an optimizer that can is told so.

        With offload DeepSpeed holds the norm on the host; ranks agree on the device.
        """
        refused = self.verdict.judge(norm.to(self.ds.device), self._limit)
        if not self.waits:
            self.ds.basic_optimizer.found_inf = refused
        return torch.where(refused.to(norm.device) > 0, torch.inf, norm)

    def outcome(self) -> tuple[Tensor, Tensor]:
        """Return the norm before clipping, and whether the update was refused."""
        if self.verdict.norm is None or self.verdict.refused is None:  # DeepSpeed found that a gradient is not finite
            return torch.tensor(torch.nan, device=self.ds.device), torch.tensor(1.0, device=self.ds.device)
        return self.verdict.norm, self.verdict.refused

    def fragments(self) -> Iterator[Fragment]:
        """Yield what this rank holds."""
        return internals.fragments(self.ds, self.mesh, self.zero_stage)

    def moments(self, fragment: Fragment) -> dict[str, Tensor]:
        """Return views of the moments."""
        return internals.moments(self.ds, fragment)

    def counters(self) -> dict[str, float]:
        """Return the optimizer's scalar state."""
        return internals.counters(self.ds)

    def prepare_moments(self, kinds_of: Callable[[str], list[str]], scalars: dict[str, float]) -> None:
        """Give a fresh optimizer zero moments and counters."""
        internals.prepare_moments(self.ds, self.fragments(), kinds_of, scalars)

    def publish_weights(self) -> None:
        """Carry written fp32 weights to the parameters."""
        internals.publish_weights(self.ds, self.zero_stage)

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers."""
        self.ds.destroy()
