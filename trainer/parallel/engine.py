"""The engine: one optimizer step on a spread model. The one place that calls DeepSpeed.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.config.deepspeed import check_optimizer, deepspeed_config, effective_stage, resolve_precision
from trainer.config.parallel import check_model_splits
from trainer.config.run import RunConfig
from trainer.parallel.batch import Batch, LocalBatch, check_distribution, check_ids, global_weight, local_part
from trainer.parallel.fp8 import check_gpu, multiply_in_fp8
from trainer.parallel.inside_deepspeed import (
    keep_owned_gradients_only,
    quicken_deepspeed,
    reduce_by,
    step_on_gradients_in_place,
)
from trainer.parallel.mesh import Mesh, limit_every_wait
from trainer.parallel.norm import clip_gradients
from trainer.parallel.optimizer import make_optimizer
from trainer.parallel.plan import Split
from trainer.parallel.recompute import recompute_blocks
from trainer.parallel.reduction import GradientSum, sums_in_place
from trainer.parallel.sequence import shard_attention
from trainer.parallel.tensor import materialise, shard_model, splits_of, sum_shared_gradients
from trainer.parallel.topology import Topology

REQUESTS = ("stop", "save", "leave")  # what ranks can agree on at a step boundary


@dataclass(frozen=True)
class StepOutcome:
    """What one step came to. The same on every rank."""

    loss: float  # mean over the tokens of the global batch, by weight, in nats
    grad_norm: float  # before clipping
    skipped: bool  # loss or gradient was not finite, and no parameter changed


class Engine:
    """A model on the mesh, its optimizer, and the step that joins them. Build it with `build_engine`."""

    def __init__(
        self,
        ds: Any,
        config: RunConfig,
        mesh: Mesh,
        splits: dict[str, Split],
        zero_stage: int,
        accumulation: int,
        device: torch.device,
    ) -> None:
        self.ds, self.config, self.mesh, self.splits = ds, config, mesh, splits
        self.zero_stage, self.accumulation, self.device = zero_stage, accumulation, device
        self._sum = GradientSum(self.module, mesh.replica_group) if sums_in_place(ds, mesh, zero_stage) else None
        if self._sum is not None and zero_stage == 1:
            reduce_by(self._sum.finish, ds.optimizer)
        self._checked = False
        assert config.model.vocab_size is not None, "the vocabulary is known once the data are prepared"
        self._vocab_size = config.model.vocab_size
        self.step = 0  # optimizer steps of this run, skipped ones included; a restored run goes on counting
        self.progress: Callable[[], None] = lambda: None  # called around each step, before each evaluated batch
        self._asked: set[str] = set()
        self._agreed: frozenset[str] = frozenset()

    def ask(self, what: str) -> None:
        """Ask all ranks to `stop`, `save`, or `leave` (writing nothing) at the next step boundary. Signal-safe."""
        assert what in REQUESTS
        self._asked.add(what)

    def agreed(self, what: str) -> bool:
        """Return whether any rank had asked for it before the last step ended; the same on every rank."""
        return what in self._agreed

    @property
    def module(self) -> nn.Module:
        """The model; under tensor parallelism and ZeRO 3 its parameters are shares."""
        module: nn.Module = self.ds.module
        return module

    def train_step(self, micro_batches: Sequence[Batch], lr: float) -> StepOutcome:
        """Take one optimizer step on the global batch of which these are this data rank's micro-batches.

        The objective is the sum of weighted token losses over the global sum of weights, whatever the number of
        ranks and micro-batches. Where loss or gradient is not finite, all ranks skip the update together.
        """
        assert len(micro_batches) == self.accumulation, f"{len(micro_batches)} micro-batches, not {self.accumulation}"
        self.progress()
        for batch in micro_batches:
            check_ids(batch, self._vocab_size)
        if not self._checked:
            check_distribution(micro_batches, self.mesh, self.device)
            self._checked = True
        for group in self.ds.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        weight = global_weight(micro_batches, self.mesh, self.device)
        total = torch.zeros((), device=self.device)
        norm: Tensor | None = None
        for index, batch in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            self._seed_dropout(index)
            total = self._accumulate(local_part(batch, self.mesh, self.device), weight, total, last)
            if last and self.zero_stage == 0:
                norm = clip_gradients(self.module, self.config.optim.clip_norm, self.mesh)
            self.ds.step()
        self.step += 1
        return self._outcome(total / weight, norm)

    def _agree(self, loss: Tensor) -> float:
        """Return the loss summed over replicas, and learn what any rank asks for, in one small collective."""
        self.progress()
        asked = set(self._asked)
        numbers = torch.tensor([0.0, *(float(what in asked) for what in REQUESTS)]).to(self.device)
        if self.mesh.tp_rank == 0:  # tensor ranks have the same loss: one of them counts
            numbers[0] = loss
        if self.mesh.world > 1:
            dist.all_reduce(numbers)
        mean, *wishes = numbers.tolist()
        self._agreed = frozenset(what for what, wish in zip(REQUESTS, wishes, strict=True) if wish)
        self._asked -= {"save"} & asked
        return float(mean)

    def _seed_dropout(self, index: int) -> None:
        """Make dropout a function of seed, step, micro-batch and place in the batch, the same on all tensor ranks."""
        if self.config.model.dropout:
            place = (self.config.seed, self.step, index, self.mesh.replica_rank)
            torch.manual_seed(int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:7], "little"))

    def _accumulate(self, batch: LocalBatch, weight: float | Tensor, total: Tensor, last: bool) -> Tensor:
        """Add the gradient of one micro-batch; return the sum of weighted losses so far."""
        losses = self.ds(batch.inputs, batch.targets, documents=batch.documents, positions=batch.positions)
        part = (losses if batch.weights is None else losses * batch.weights).sum()
        total = total + part.detach()
        averaged_over = self.mesh.replica_size if self._sum is None else 1  # DeepSpeed takes the mean over replicas
        objective = part * (averaged_over / weight)
        if last:
            objective = objective * (1 + 0 * total)  # a loss that is not finite makes the gradient so: all ranks skip
        if last and self._sum is not None:
            self._sum.begin()
        self.ds.backward(objective, scale_wrt_gas=False)
        if last and self._sum is not None:
            self._sum.finish()
        return total

    def _outcome(self, loss: Tensor, norm: Tensor | None) -> StepOutcome:
        mean = self._agree(loss)
        grad_norm = float(norm if norm is not None else self.ds.get_global_grad_norm())
        applied = math.isfinite(grad_norm) and self.ds.was_step_applied()
        return StepOutcome(mean, grad_norm if applied else math.nan, not applied)

    @torch.no_grad()
    def token_losses(self, batch: Batch) -> Tensor:
        """Return the loss of each token (B, T) in float32, without gradients; the same on all ranks of a data rank."""
        self.progress()
        check_ids(batch, self._vocab_size)
        training = self.module.training
        self.module.eval()
        try:
            part = local_part(batch, self.mesh, self.device)
            losses: Tensor = self.ds(part.inputs, part.targets, documents=part.documents, positions=part.positions)
        finally:
            self.module.train(training)
        if self.mesh.sequence_group is None:
            return losses
        parts = [torch.empty_like(losses) for _ in range(self.mesh.sp_size)]
        dist.all_gather(parts, losses.contiguous(), group=self.mesh.sequence_group)
        return torch.cat(parts, dim=1)

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers."""
        self.ds.destroy()


def build_engine(
    config: RunConfig, model: nn.Module, mesh: Mesh, *, lr: float, accumulation: int, device: torch.device
) -> Engine:
    """Spread `model` over the mesh and give it an optimizer.

    `model` is whole: with values, or on the meta device, in which case each rank makes its own share from the seed and
    the whole never exists. Raises `UserError` where the model's widths do not divide.
    """
    check_model_splits(config.model, mesh.degrees)
    check_optimizer(config)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    plan: Mapping[str, str] = model.tensor_plan  # type: ignore[assignment]
    splits = splits_of(model, plan, config.model, mesh)
    fp8 = config.precision == "fp8"
    if fp8:
        check_gpu(device)
    shard_model(model, plan, config.model, mesh, overlap=config.parallel.overlap, fp8=fp8)
    if fp8:
        multiply_in_fp8(model.blocks)  # type: ignore[arg-type]
    materialise(model, splits, config, device)
    sum_shared_gradients(model, plan, mesh)
    shard_attention(model, mesh)
    recompute_blocks(model, config.parallel.recompute)
    model.label_smoothing = config.optim.label_smoothing  # type: ignore[assignment]
    if config.parallel.compile:
        for block in model.blocks:  # type: ignore[union-attr]
            block.compile()
    precision = resolve_precision(config.precision, gpu=device.type == "cuda")
    stage = effective_stage(config, replicas=mesh.replica_size, precision=precision)
    optimizer = make_optimizer(config, model, plan, splits, mesh, lr, device)
    quicken_deepspeed()
    ds, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        mpu=Topology(mesh),
        config=deepspeed_config(config, stage=stage, accumulation=accumulation, precision=precision),
        dist_init_required=False,
    )
    limit_every_wait(mesh.timeout)
    if stage in (1, 2) and config.parallel.offload == "none":
        (step_on_gradients_in_place if stage == 1 else keep_owned_gradients_only)(ds.optimizer)
    ds.enable_backward_allreduce = stage > 0
    return Engine(ds, config, mesh, splits, stage, accumulation, device)
