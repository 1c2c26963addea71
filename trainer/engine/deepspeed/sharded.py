"""DeepSpeed's engine behind our protocol: ZeRO 0 to 3, with the gradient sums and the norm that it leaves to us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from trainer.engine.batch import LocalBatch
from trainer.engine.clip import above_on_any, clip_gradients
from trainer.engine.deepspeed import internals
from trainer.engine.protocol import Fragment
from trainer.engine.reduction import GradientSum
from trainer.optim.groups import set_rates
from trainer.parallel.mesh import Mesh


class DeepSpeedSharded:
    """A model and its optimizer inside `deepspeed.initialize`'s engine. See `trainer/engine/protocol.py`."""

    def __init__(self, ds: Any, mesh: Mesh, zero_stage: int, clip_norm: float) -> None:
        self.ds, self.mesh, self.zero_stage, self.clip_norm = ds, mesh, zero_stage, clip_norm
        self._sum = (
            GradientSum(self.module, mesh.replica_group) if internals.sums_in_place(ds, mesh, zero_stage) else None
        )
        self._norm: Tensor | None = None  # of the last step, where DeepSpeed reports none
        self._limit: float | None = None  # of the norm in this step
        self._refused: float | None = None  # the norm of the last step, where it was above the limit
        if zero_stage:
            internals.judge_norm(ds.optimizer, zero_stage, self._refuses)
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

    def update(self, *, last: bool, limit: float | None = None) -> None:
        """End a micro-batch; clip and update after the last, unless the norm is above the limit."""
        self._limit, self._refused = limit, None
        if last and self.zero_stage == 0:
            self._norm = clip_gradients(self.module, self.clip_norm, self.mesh, self._refuses)
        self.ds.step()

    def _refuses(self, norm: Tensor) -> bool:
        """Return on all ranks whether the norm is above the limit on any, and remember it then."""
        if not above_on_any(norm, self._limit, self.mesh):
            return False
        self._refused = float(norm)
        return True

    def outcome(self) -> tuple[float, bool]:
        """Return the norm before clipping, and whether parameters were updated."""
        if self._refused is not None:
            return self._refused, False
        norm = self._norm if self._norm is not None else self.ds.get_global_grad_norm()
        return float(norm), bool(self.ds.was_step_applied())

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
