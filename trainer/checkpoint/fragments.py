"""What one rank holds of parameters and optimizer moments, the same for every ZeRO stage.

The values are fp32. A rank *holds* a flat range of its tensor share of each parameter; where several ranks hold
the same range, each *owns* a part of it, so that a checkpoint has every value once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.parallel.engine import Engine

WEIGHT = "weight"


@dataclass
class Fragment:
    """Flat views into the engine's own memory: of the fp32 weights and, by name, of the optimizer's moments.

    `held` is the range of the share that the views cover, `owned` the part of it that this rank saves.
    """

    name: str
    held: tuple[int, int]
    owned: tuple[int, int]
    weight: Tensor
    home: Tensor  # the tensor whose optimizer state holds the moments
    offset: int  # where in `home`, flattened, the range begins

    @property
    def size(self) -> int:
        return self.held[1] - self.held[0]


def fragments(engine: Engine) -> Iterator[Fragment]:
    """Yield what this rank holds, in the order of the parameters."""
    if engine.zero_stage == 0:
        return _unsharded(engine)
    return _stage3(engine) if engine.zero_stage == 3 else _stage12(engine)


def _unsharded(engine: Engine) -> Iterator[Fragment]:
    mesh = engine.mesh
    for name, parameter in engine.module.named_parameters():
        count = parameter.numel()
        owned = (count * mesh.replica_rank // mesh.replica_size, count * (mesh.replica_rank + 1) // mesh.replica_size)
        yield Fragment(name, (0, count), owned, parameter.data.view(-1), parameter, 0)


def _stage12(engine: Engine) -> Iterator[Fragment]:
    optimizer = engine.ds.optimizer
    flat_groups = optimizer.single_partition_of_fp32_groups
    for name, parameter in engine.module.named_parameters():
        mapping: Any = getattr(parameter, "_hp_mapping", None)
        if mapping is None:  # this parameter lies in other ranks' partitions
            continue
        start = mapping.lp_fragment_address.start
        held = (start, start + mapping.hp_fragment_address.numel)
        offset = mapping.hp_fragment_address.start
        home = flat_groups[mapping.param_group_index]
        yield Fragment(name, held, held, home.data.narrow(0, offset, held[1] - held[0]), home, offset)


def _stage3(engine: Engine) -> Iterator[Fragment]:
    optimizer, rank = engine.ds.optimizer, engine.mesh.replica_rank
    parameter: Any
    for name, parameter in engine.module.named_parameters():
        group, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start, stop = rank * padded, min((rank + 1) * padded, parameter.ds_numel)
        if stop <= start:  # padding only
            continue
        home = optimizer.fp32_partitioned_groups_flat[group]
        yield Fragment(name, (start, stop), (start, stop), home.data.narrow(0, offset, stop - start), home, offset)


def moments(engine: Engine, fragment: Fragment) -> dict[str, Tensor]:
    """Return flat views of the optimizer's moments over the held range; empty before the first step."""
    state = engine.ds.basic_optimizer.state.get(fragment.home, {})
    return {
        key: value.view(-1).narrow(0, fragment.offset, fragment.size)
        for key, value in state.items()
        if torch.is_tensor(value) and value.shape == fragment.home.shape and value.dim() > 0
    }


def counters(engine: Engine) -> dict[str, float]:
    """Return the optimizer's scalar state, such as Adam's step count, which all parameters share."""
    found: dict[str, float] = {}
    for state in engine.ds.basic_optimizer.state.values():
        found |= {k: float(v) for k, v in state.items() if v is not None and (not torch.is_tensor(v) or v.dim() == 0)}
    return found


@torch.no_grad()
def prepare_moments(engine: Engine, kinds_of: Callable[[str], list[str]], scalars: dict[str, float]) -> None:
    """Give a fresh optimizer the state that it would make in its first step: zero moments and the counters.

    `kinds_of` names the moments of a parameter.
    """
    state = engine.ds.basic_optimizer.state
    for fragment in fragments(engine):
        home = fragment.home
        for kind in kinds_of(fragment.name):
            if kind not in state[home]:
                state[home][kind] = torch.zeros_like(home)
        for name, value in scalars.items():
            state[home][name] = torch.tensor(value, dtype=torch.float32, device=home.device)


@torch.no_grad()
def publish_weights(engine: Engine) -> None:
    """Carry fp32 weights that were written into the fragments to the parameters that the model computes with."""
    optimizer = engine.ds.optimizer
    if engine.zero_stage in (1, 2):
        optimizer.update_lp_params()
    elif engine.zero_stage == 3:
        optimizer._partition_all_parameters()
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
