"""The engine: one optimizer step on a spread model, the same whichever library shards it.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.config.run import RunConfig
from trainer.engine.agreement import Agreement
from trainer.engine.batch import Batch, check_distribution, check_ids, global_weight, local_part
from trainer.engine.carried import CarriedStates
from trainer.engine.host_copy import HostCopy
from trainer.engine.protocol import Sharded
from trainer.engine.rank_times import RankTimes
from trainer.guard.spikes import Limits
from trainer.parallel.mesh import Mesh
from trainer.parallel.tensor.split import Split

if TYPE_CHECKING:
    from trainer.engine.carried import Kept
    from trainer.models.interface import LanguageModel

NOTHING = -1.0  # a limit that every gradient norm is above


@dataclass(frozen=True)
class StepOutcome:
    """What one step came to. The same on every rank."""

    loss: float  # mean over the tokens of the global batch, by weight, in nats
    grad_norm: float  # before clipping
    skipped: bool  # no parameter changed: loss or gradient was not finite, or above its limit

    @property
    def finite(self) -> bool:
        """Whether loss and gradient norm are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass(frozen=True)
class Launched:
    """A step whose work is with the device. Steps are read in the order in which they were launched."""

    _numbers: HostCopy
    _read: Callable[[list[float]], StepOutcome]

    def read(self) -> StepOutcome:
        """Wait for the step and return what it came to; the agreements of its boundary hold from now on."""
        return self._read(self._numbers.read())


class Engine:
    """A model on the mesh, its optimizer, and the step that joins them. Build it with `build_engine`."""

    def __init__(
        self,
        sharded: Sharded,
        config: RunConfig,
        mesh: Mesh,
        splits: dict[str, Split],
        accumulation: int,
        device: torch.device,
    ) -> None:
        self.sharded, self.config, self.mesh, self.splits = sharded, config, mesh, splits
        self.accumulation, self.device = accumulation, device
        self.agreement, self.rank_times = Agreement(), RankTimes(device)
        self.step = 0  # optimizer steps of this run, skipped ones included; a restored run goes on counting
        self.progress: Callable[[], None] = lambda: None  # called around each step, before each evaluated batch
        self._checked = False
        assert config.model.vocab_size is not None, "the vocabulary is known once the data are prepared"
        self._vocab_size = config.model.vocab_size
        self.carried = self.new_carried(accumulation) if config.model.carries else None  # of the training lanes

    @property
    def module(self) -> nn.Module:
        """The model; under tensor parallelism and ZeRO 3 its parameters are shares."""
        return self.sharded.module

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage that runs, which may be below the one that was asked for."""
        return self.sharded.zero_stage

    def new_carried(self, micro_batches: int = 1) -> CarriedStates:
        """Return empty states of lanes, for a reader of its own."""
        return CarriedStates(cast("LanguageModel", self.module), micro_batches)

    def train_step(
        self, micro_batches: Sequence[Batch], lr: float, limits: Limits | None = None, *, decay_share: float = 1.0
    ) -> StepOutcome:
        """Take one optimizer step, see `launch_step`, and wait for what it comes to."""
        return self.launch_step(micro_batches, lr, limits, decay_share=decay_share).read()

    def launch_step(
        self, micro_batches: Sequence[Batch], lr: float, limits: Limits | None = None, *, decay_share: float = 1.0
    ) -> Launched:
        """Begin one optimizer step on the global batch of which these are this data rank's micro-batches.

        Nothing in it makes the host wait for the device, see `docs/benchmarks/gpu.md` for what may all the same. The
        next step may begin before this one is read, unless states are carried or its limits depend on this one.

        There are as many micro-batches as the engine accumulates, or fewer where the batch still rises.
        Weight decay is multiplied by the rate and by `decay_share`. The objective is the sum of weighted token losses
        over the global sum of weights, whatever the number of ranks and micro-batches. Where loss or gradient is not
        finite, or above its limit, all ranks skip the update together.
        """
        assert 0 < len(micro_batches) <= self.accumulation, (
            f"{len(micro_batches)} micro-batches, not {self.accumulation}"
        )
        self.progress()
        for batch in micro_batches:
            check_ids(batch, self._vocab_size)
        if not self._checked:
            check_distribution(micro_batches, self.mesh, self.device)
            self._checked = True
        self.sharded.set_rates(lr, decay_share=decay_share)
        weight = global_weight(micro_batches, self.mesh, self.device)
        total = torch.zeros((), device=self.device)
        before = self.carried.kept() if self.carried else None
        agreed: Tensor | None = None  # the loss, and what ranks ask for
        for index, batch in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            self._seed_dropout(index)
            total = self._accumulate(index, batch, weight, total, last=last)
            limit: Tensor | None = None
            if last and limits is not None:  # all ranks know the loss before they update
                agreed = self.agreement.exchange(total / weight, self.mesh)
                within = agreed[0] <= limits.loss
                limit = torch.where(within, limits.grad_norm, NOTHING)
            self.sharded.update(last=last, limit=limit)
        self.step += 1
        self.progress()
        if agreed is None:
            agreed = self.agreement.exchange(total / weight, self.mesh)
        numbers = HostCopy(torch.cat([torch.stack(self.sharded.outcome()), agreed]))
        return Launched(numbers, partial(self._outcome, before))

    def _outcome(self, before: Kept | None, numbers: list[float]) -> StepOutcome:
        grad_norm, refused, mean, *requests = numbers
        self.agreement.learn(requests)
        skipped = bool(refused)
        if skipped and self.carried and before is not None:  # what was read may be no finite numbers
            self.carried.put_back(before)
        return StepOutcome(mean, grad_norm if math.isfinite(grad_norm) else math.nan, skipped)

    def drop(self) -> None:
        """Forget the step that was launched last and not read. It was refused: see `Verdict.most`."""
        self.step -= 1

    def _accumulate(self, index: int, batch: Batch, weight: float | Tensor, total: Tensor, *, last: bool) -> Tensor:
        """Add the gradient of one micro-batch; return the sum of weighted losses so far."""
        state = self.carried.enter(index, batch.begins) if self.carried else None
        part = local_part(batch, self.mesh, self.device, state)
        with self.rank_times.forward() if index == 0 else nullcontext():
            losses = self.sharded.forward(part)
        loss = (losses if part.weights is None else losses * part.weights).sum()
        total = total + loss.detach()
        objective = loss * (self.sharded.mean_over / weight)
        if last:
            objective = objective * (1 + 0 * total)  # a loss that is not finite makes the gradient so: all ranks skip
        self.sharded.backward(objective, last=last)
        if self.carried:
            self.carried.leave(index)
        return total

    def _seed_dropout(self, index: int) -> None:
        """Make dropout a function of seed, step, micro-batch and place in the batch, the same on all tensor ranks."""
        if self.config.model.drops:
            place = (self.config.seed, self.step, index, self.mesh.replica_rank)
            torch.manual_seed(int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:7], "little"))

    @torch.no_grad()
    def token_losses(self, batch: Batch, carried: CarriedStates | None = None) -> Tensor:
        """Return the loss of each token (B, T) in float32, without gradients; the same on all ranks of a data rank.

        With `carried` the sequences follow those of the call before, see `new_carried`.
        """
        self.progress()
        check_ids(batch, self._vocab_size)
        training = self.module.training
        self.module.eval()
        try:
            state = carried.enter(0, batch.begins) if carried else None
            losses = self.sharded.forward(local_part(batch, self.mesh, self.device, state))
        finally:
            self.module.train(training)
        if self.mesh.sequence_group is None:
            return losses
        parts = [torch.empty_like(losses) for _ in range(self.mesh.sp_size)]
        dist.all_gather(parts, losses.contiguous(), group=self.mesh.sequence_group)
        return torch.cat(parts, dim=1)

    def close(self) -> None:
        """Release the engine's hooks and buffers."""
        self.sharded.close()
