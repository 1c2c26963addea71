"""FSDP2 behind our protocol: a rank owns rows of its tensor share of each parameter, and their optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from trainer.engine.batch import LocalBatch
from trainer.engine.clip import clip
from trainer.engine.protocol import Fragment
from trainer.engine.verdict import Verdict, takes_verdicts
from trainer.models.interface import LanguageModel, LayerState
from trainer.models.roles import role_of
from trainer.optim.groups import set_rates
from trainer.parallel.mesh import Mesh
from trainer.parallel.tensor.local import local
from trainer.parallel.tensor.split import Split


class _Held(dict[str, Tensor]):
    """A layer's state as FSDP's hooks hand it on: what is a plain dict they copy, and updates of it would be lost."""


class FsdpSharded:
    """A model of FSDP units and its optimizer. See `trainer/engine/protocol.py`."""

    def __init__(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        mesh: Mesh,
        splits: Mapping[str, Split],
        zero_stage: int,
        clip_norm: float,
    ) -> None:
        self.model, self.optimizer, self.mesh, self.splits = model, optimizer, mesh, splits
        self.zero_stage, self.clip_norm = zero_stage, clip_norm
        self._shards = dict(model.named_parameters())
        self._tensor_sums = [n for n in self._shards if role_of(model.roles, n).split == "shared heads"]
        self.verdict, self.waits = Verdict(mesh), not takes_verdicts(optimizer)

    @property
    def module(self) -> nn.Module:
        """The model; its parameters are shards, except while a unit computes."""
        return self.model

    @property
    def mean_over(self) -> int:
        """FSDP takes the mean over replicas."""
        return self.mesh.replica_size

    def set_rates(self, lr: float, *, decay_share: float) -> None:
        """Set the learning rate of all groups, and weight decay times a share."""
        set_rates(self.optimizer.param_groups, lr, decay_share=decay_share)

    def forward(self, batch: LocalBatch) -> Tensor:
        """Return the loss of each token."""
        state = batch.state
        if state is not None:
            state.layers = [cast("LayerState", _Held(layer)) for layer in state.layers]
        losses: Tensor = self.model(
            batch.inputs, batch.targets, documents=batch.documents, positions=batch.positions, state=state
        )
        return losses

    def backward(self, objective: Tensor, *, last: bool) -> None:
        """Add a gradient. At stage 1 it stays whole until the last, as ZeRO 1 has it."""
        unit = cast("FSDPModule", self.model)
        unit.set_is_last_backward(last)
        unit.set_requires_gradient_sync(last or self.zero_stage > 1)
        objective.backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, *, last: bool, limit: Tensor | None = None) -> None:
        """Clip and update after the last micro-batch, unless a gradient is not finite or the norm above the limit."""
        if not last:
            return
        gradients = self._gradients()
        if self.mesh.tensor_group is not None:
            for name in self._tensor_sums:
                dist.all_reduce(gradients[name], group=self.mesh.tensor_group)
        norm = self._norm(gradients)
        refused = self.verdict.judge(norm, limit)
        clip(list(gradients.values()), norm, self.clip_norm)
        if not self.waits:
            self.optimizer.found_inf = refused  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not bool(refused):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self) -> dict[str, Tensor]:
        """Return what this rank holds of each gradient."""
        return {n: local(p.grad) for n, p in self._shards.items() if p.grad is not None}

    def _norm(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return the norm over the whole model. What tensor ranks hold alike counts on the first alone."""
        counted = [g for n, g in gradients.items() if self.mesh.tp_rank == 0 or self.splits[n].dim is not None]
        squares = torch.stack(torch._foreach_norm(counted)).float().square().sum()
        for group in (self.mesh.replica_group, self.mesh.tensor_group):
            if group is not None:
                dist.all_reduce(squares, group=group)
        return squares.sqrt()

    def outcome(self) -> tuple[Tensor, Tensor]:
        """Return the norm before clipping, and whether the update was refused."""
        assert self.verdict.norm is not None and self.verdict.refused is not None
        return self.verdict.norm, self.verdict.refused

    def fragments(self) -> Iterator[Fragment]:
        """Yield the rows that this rank owns."""
        for name, shard in self._shards.items():
            own, whole = local(shard), self.splits[name].local_shape
            row = own[0].numel() if own.shape[0] else 0
            # fully_shard shares rows out as torch.chunk does: all shares but the last are as long as the first
            share = -(-whole[0] // self.mesh.replica_size)
            start = self.mesh.replica_rank * share * row
            if own.numel():
                held = (start, start + own.numel())
                yield Fragment(name, held, held, own.view(-1), shard, 0)

    def moments(self, fragment: Fragment) -> dict[str, Tensor]:
        """Return views of the moments."""
        state = self.optimizer.state.get(fragment.home, {})
        return {kind: local(values).view(-1) for kind, values in state.items() if isinstance(values, DTensor)}

    def counters(self) -> dict[str, float]:
        """Return the optimizer's scalar state."""
        found: dict[str, float] = {}
        for state in self.optimizer.state.values():
            found |= {kind: float(value) for kind, value in state.items() if not isinstance(value, DTensor)}
        return found

    @torch.no_grad()
    def prepare_moments(self, kinds_of: Callable[[str], list[str]], scalars: dict[str, float]) -> None:
        """Give a fresh optimizer zero moments and counters."""
        for name, shard in self._shards.items():
            state = self.optimizer.state[shard]
            for kind in kinds_of(name):
                state.setdefault(kind, torch.zeros_like(shard))
            for kind, value in scalars.items():
                state[kind] = torch.tensor(value, dtype=torch.float32, device=shard.device)

    def publish_weights(self) -> None:
        """Let go of what was gathered of former weights: the next pass gathers the shards anew."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def close(self) -> None:
        """Nothing is held beyond the model."""
