"""The optimizer of a rank: torch's own, which need no compiler on the machine, or Muon."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.config.run import RunConfig
from trainer.models.interface import LanguageModel
from trainer.models.roles import role_of
from trainer.optim.muon import Matrix, Muon
from trainer.parallel.mesh import Mesh
from trainer.parallel.tensor.shard import take_share
from trainer.parallel.tensor.split import Split


def parameter_groups(model: LanguageModel, weight_decay: float) -> list[dict[str, Any]]:
    """Return an optimizer's two groups, what decays and what does not, each in the order of `named_parameters`."""
    named = [(role_of(model.roles, name), p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for role, p in named if role.decay], "weight_decay": weight_decay},
        {"params": [p for role, p in named if not role.decay], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    config: RunConfig, model: LanguageModel, splits: Mapping[str, Split], mesh: Mesh, lr: float
) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that this rank holds."""
    optim = config.optim
    groups = parameter_groups(model, optim.weight_decay)
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=optim.betas[0])
    if optim.name == "muon":
        return _make_muon(config, model, splits, mesh, lr)
    return torch.optim.AdamW(groups, lr=lr, betas=optim.betas, eps=optim.eps, fused=True)


def _make_muon(config: RunConfig, model: LanguageModel, splits: Mapping[str, Split], mesh: Mesh, lr: float) -> Muon:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        role, split = role_of(model.roles, name), splits[name]
        if role.group != "matrix":
            others.append(parameter)
            continue
        share = partial(take_share, split=split)
        parts = role.parts or (split.shape[0],)
        matrices.append(Matrix(parameter, parts, partial(gather_whole, split=split, mesh=mesh), share))
    return Muon(
        matrices,
        [{"params": others, "weight_decay": 0.0}],
        lr=lr,
        momentum=config.optim.betas[1],
        weight_decay=config.optim.weight_decay,
        betas=config.optim.betas,
        eps=config.optim.eps,
        replica_group=mesh.replica_group,
    )


def gather_whole(share: Tensor, split: Split, mesh: Mesh) -> Tensor:
    """Put the tensor ranks' shares of a matrix together; the whole is the same on all of them."""
    if split.dim is None:
        return share
    assert mesh.tensor_group is not None
    shares = [torch.empty_like(share) for _ in range(mesh.tp_size)]
    dist.all_gather(shares, share.contiguous(), group=mesh.tensor_group)
    widths = [stop - start for start, stop in split.pieces]
    pieces = [s.split(widths, dim=split.dim) for s in shares]
    return torch.cat([piece for part in zip(*pieces, strict=True) for piece in part], dim=split.dim)
