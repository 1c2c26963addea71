"""A rank's tensor shares: what they are, how they get their values, and the gradients that tensor ranks sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.models.common.initial import fill
from trainer.models.interface import LanguageModel
from trainer.models.roles import role_of
from trainer.parallel.mesh import Group, Mesh
from trainer.parallel.tensor.split import Split, split_parameter


def splits_of(model: LanguageModel, mesh: Mesh) -> dict[str, Split]:
    """Return this rank's share of every parameter of a whole model, by parameter name."""
    return {
        name: split_parameter(
            role_of(model.roles, name), tuple(parameter.shape), tp_rank=mesh.tp_rank, tp_size=mesh.tp_size
        )
        for name, parameter in model.named_parameters()
    }


def sum_shared_gradients(model: LanguageModel, mesh: Mesh) -> None:
    """Sum over tensor ranks the gradients of replicated parameters that each rank uses for its own heads."""
    if mesh.tensor_group is None:
        return
    for name, parameter in model.named_parameters():
        if role_of(model.roles, name).split == "shared heads":
            parameter.register_hook(_sum_over(mesh.tensor_group))


def _sum_over(group: Group) -> Any:
    """Return a gradient hook that sums over the group."""

    def hook(gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed, group=group)
        return summed

    return hook


def take_share(whole: Tensor, split: Split) -> Tensor:
    """Return this rank's share of a whole parameter."""
    if split.dim is None:
        return whole
    return torch.cat([whole.narrow(split.dim, start, stop - start) for start, stop in split.pieces], dim=split.dim)


@torch.no_grad()
def cut_parameters(model: LanguageModel, splits: Mapping[str, Split]) -> None:
    """Give this rank its share of each split parameter that is whole still, in place."""
    shares: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        split = splits[name]
        if split.dim is None or tuple(parameter.shape) == split.local_shape:
            continue
        share = nn.Parameter(take_share(parameter, split).clone())
        share.tensor_model_parallel = True  # type: ignore[attr-defined]  # so its norm is summed over tensor ranks
        shares[id(parameter)] = share
    _put(model, shares)


@torch.no_grad()
def materialise(model: LanguageModel, splits: Mapping[str, Split], seed: int, device: torch.device) -> None:
    """Move a model to its device; one that lies on the meta device is filled, one whole parameter at a time."""
    if not any(parameter.is_meta for parameter in model.parameters()):
        model.to(device)
        return
    filled: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        whole = torch.empty(splits[name].shape)
        fill(whole, name, role_of(model.roles, name).initial, seed)
        filled[id(parameter)] = nn.Parameter(take_share(whole, splits[name]).to(device, copy=True))
        vars(filled[id(parameter)]).update(vars(parameter))  # DeepSpeed marks split parameters by attributes
    _put(model, filled)


def _put(model: nn.Module, instead: Mapping[int, nn.Parameter]) -> None:
    """Put other parameters in the place of those with these ids; a tied parameter stays one."""
    for module in model.modules():
        for last, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in instead:
                setattr(module, last, instead[id(parameter)])
