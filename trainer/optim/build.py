"""The optimizer of a rank: torch's own, which need no compiler on the machine, or Muon."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.config.run import RunConfig
from trainer.models.interface import LanguageModel
from trainer.models.roles import role_of
from trainer.models.transfer import Factors, factors
from trainer.optim.groups import grouped, make_group, parameter_groups
from trainer.optim.muon import Matrix, Muon
from trainer.parallel.mesh import Mesh
from trainer.parallel.tensor.shard import take_share
from trainer.parallel.tensor.split import Split


def make_optimizer(
    config: RunConfig, model: LanguageModel, splits: Mapping[str, Split], mesh: Mesh, lr: float
) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that this rank holds."""
    optim = config.optim
    if optim.name == "muon":
        return _make_muon(config, model, splits, mesh, lr)
    groups = parameter_groups(model, optim)
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=optim.betas[0])
    return torch.optim.AdamW(groups, lr=lr, betas=optim.betas, eps=optim.eps, fused=True)


def _make_muon(config: RunConfig, model: LanguageModel, splits: Mapping[str, Split], mesh: Mesh, lr: float) -> Muon:
    optim = config.optim
    weight_decay = optim.weight_decay if optim.muon_weight_decay is None else optim.muon_weight_decay
    matrices: dict[Factors, list[Matrix]] = {}
    others = []
    for name, parameter in model.named_parameters():
        role, split = role_of(model.roles, name), splits[name]
        if role.group != "matrix":
            others.append(name)
            continue
        share = partial(take_share, split=split)
        parts = role.parts or (split.shape[0],)
        gather = partial(gather_whole, split=split, mesh=mesh)
        matrix = Matrix(name, parameter, tuple(parameter.shape), parts, gather, share)
        matrices.setdefault(factors(model.config, name, role, muon=True), []).append(matrix)
    groups = []
    for scale, members in matrices.items():
        group = make_group([m.parameter for m in members], scale, weight_decay * scale.weight_decay, optim.eps)
        group["lr_scale"] *= optim.muon_lr_factor
        groups.append((group, members))
    return Muon(
        groups,
        grouped(model, optim, others),
        lr=lr,
        momentum=optim.betas[1],
        betas=optim.betas,
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
