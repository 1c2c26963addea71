"""What we use and change inside DeepSpeed, beyond its public interface, as read in version `READ_IN`.

The first part finds a rank's fp32 weights and the optimizer's moments, which every ZeRO stage keeps elsewhere. The
second replaces what costs time or memory without need.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.utils import combine_grad_norm_groups
from torch import Tensor

from trainer.engine.protocol import Fragment
from trainer.parallel.mesh import Mesh

READ_IN = "0.19.8"
JUDGES = ("deepspeed.runtime.zero.stage_1_and_2", "deepspeed.runtime.zero.stage3")  # ask whether a norm is valid


def fragments(ds: Any, mesh: Mesh, zero_stage: int) -> Iterator[Fragment]:
    """Yield what this rank holds, in the order of the parameters."""
    if zero_stage == 0:
        return _unsharded(ds, mesh)
    return _stage3(ds, mesh) if zero_stage == 3 else _stage12(ds)


def _unsharded(ds: Any, mesh: Mesh) -> Iterator[Fragment]:
    for name, parameter in ds.module.named_parameters():
        count = parameter.numel()
        owned = (count * mesh.replica_rank // mesh.replica_size, count * (mesh.replica_rank + 1) // mesh.replica_size)
        yield Fragment(name, (0, count), owned, parameter.data.view(-1), parameter, 0)


def _stage12(ds: Any) -> Iterator[Fragment]:
    optimizer = ds.optimizer
    flat_groups = optimizer.single_partition_of_fp32_groups
    for name, parameter in ds.module.named_parameters():
        mapping: Any = getattr(parameter, "_hp_mapping", None)
        if mapping is None:  # this parameter lies in other ranks' partitions
            continue
        start = mapping.lp_fragment_address.start
        held = (start, start + mapping.hp_fragment_address.numel)
        offset = mapping.hp_fragment_address.start
        home = flat_groups[mapping.param_group_index]
        yield Fragment(name, held, held, home.data.narrow(0, offset, held[1] - held[0]), home, offset)


def _stage3(ds: Any, mesh: Mesh) -> Iterator[Fragment]:
    optimizer, rank = ds.optimizer, mesh.replica_rank
    parameter: Any
    for name, parameter in ds.module.named_parameters():
        group, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start, stop = rank * padded, min((rank + 1) * padded, parameter.ds_numel)
        if stop <= start:  # padding only
            continue
        home = optimizer.fp32_partitioned_groups_flat[group]
        yield Fragment(name, (start, stop), (start, stop), home.data.narrow(0, offset, stop - start), home, offset)


def homes(ds: Any, zero_stage: int) -> list[Tensor]:
    """Return this replica's flat fp32 tensors, in the same order on all replicas; none at stage 0."""
    if zero_stage == 0:
        return []
    optimizer = ds.optimizer
    return list(
        optimizer.fp32_partitioned_groups_flat if zero_stage == 3 else optimizer.single_partition_of_fp32_groups
    )


def moments(ds: Any, fragment: Fragment) -> dict[str, Tensor]:
    """Return flat views of the optimizer's moments over the held range; empty before the first step."""
    state = ds.basic_optimizer.state.get(fragment.home, {})
    return {
        key: value.view(-1).narrow(0, fragment.offset, fragment.size)
        for key, value in state.items()
        if torch.is_tensor(value) and value.shape == fragment.home.shape and value.dim() > 0
    }


def counters(ds: Any) -> dict[str, float]:
    """Return the optimizer's scalar state, such as Adam's step count, which all parameters share."""
    found: dict[str, float] = {}
    for state in ds.basic_optimizer.state.values():
        found |= {k: float(v) for k, v in state.items() if v is not None and (not torch.is_tensor(v) or v.dim() == 0)}
    return found


@torch.no_grad()
def prepare_moments(
    ds: Any, held: Iterable[Fragment], kinds_of: Callable[[str], list[str]], scalars: dict[str, float]
) -> None:
    """Give a fresh optimizer the state that it would make in its first step: zero moments and the counters.

    `kinds_of` names the moments of a parameter.
    """
    state = ds.basic_optimizer.state
    for fragment in held:
        home = fragment.home
        for kind in kinds_of(fragment.name):
            if kind not in state[home]:
                state[home][kind] = torch.zeros_like(home)
        for name, value in scalars.items():
            state[home][name] = torch.tensor(value, dtype=torch.float32, device=home.device)


@torch.no_grad()
def publish_weights(ds: Any, zero_stage: int) -> None:
    """Carry fp32 weights that were written into the fragments to the parameters that the model computes with."""
    optimizer = ds.optimizer
    if zero_stage in (1, 2):
        optimizer.update_lp_params()
    elif zero_stage == 3:
        optimizer._partition_all_parameters()
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def sums_in_place(ds: Any, mesh: Mesh, zero_stage: int) -> bool:
    """Return whether we can sum gradients: they stay in fp32 in the parameters until the step."""
    if zero_stage == 1:
        return not (ds.optimizer.use_grad_accum_attribute or ds.optimizer.cpu_offload)
    return zero_stage == 0 and mesh.replica_size > 1


def skip_slow_checks() -> None:
    """Skip checks and copies that cost seconds while DeepSpeed builds its engine and takes steps."""
    deepspeed.runtime.zero.stage_1_and_2.get_norm_dtype = _norm_dtype
    deepspeed.runtime.zero.stage_1_and_2.mask_nan_or_inf_with_val_inplace = _mark_invalid
    deepspeed.runtime.engine.DeepSpeedEngine._do_optimizer_sanity_check = _one_zero_optimizer


def _norm_dtype() -> torch.dtype:
    """DeepSpeed would copy every gradient to float64 to take its norm; float32 agrees with one process as well."""
    return torch.float32


def _mark_invalid(norm: Tensor, device: object = None, val: float = -1.0) -> None:
    """DeepSpeed would make the mark on the host and wait until it is on the device, for each group of parameters."""
    norm.masked_fill_(~torch.isfinite(norm), val)


def _one_zero_optimizer(engine: Any, optimizer: Any) -> str | None:
    """Choose the optimizer that wraps ours; bf16 at stage 1 runs through that of all other ZeRO 1 and 2.

    DeepSpeed has one for it alone, which keeps fp32 gradients for the whole run beside all bf16 ones: with two replicas
    that is 21 bytes a parameter at the peak of a step, where 13 do. The check that would choose it also imports
    DeepSpeed's Muon and with it torch's compiler: two seconds.
    """
    return "zero_optimization" if engine.zero_optimization() else None


def keep_owned_gradients_only(optimizer: Any) -> None:
    """Have ZeRO 2 add reduced gradients to this rank's flat partition at once, and keep nothing else of them.

    DeepSpeed does so in bf16. In fp32 it keeps the reduced gradients of whole parameters, and copies them to a flat
    partition before the step: this rank's gradients twice.
    """

    def drop(parameter: Tensor, group: int | None = None) -> None:
        parameter.grad = None

    optimizer._use_compact_grad_partition_buffer = lambda group: True
    optimizer.copy_grads_in_partition = drop


def step_on_gradients_in_place(optimizer: Any) -> None:
    """Have ZeRO 1 take the gradients of its partition from the parameters, which hold all of them until the step.

    In bf16 DeepSpeed also adds them to a flat partition while all are there.
    """
    optimizer._use_compact_grad_partition_buffer = lambda group: False


def judge_norm(optimizer: Any, zero_stage: int, judged: Callable[[Tensor], Tensor]) -> None:
    """Have ZeRO go on with what `judged` makes of the global norm: it skips an update whose norm is infinite.

    `judged` is called once a step, with the norm that clipping takes, and must answer alike on all ranks. With offload
    it is not called where a gradient is known not to be finite.
    """
    if zero_stage == 3:
        group_norms = optimizer._get_norm_groups
        optimizer._get_norm_groups = lambda: [judged(combine_grad_norm_groups(group_norms()))]
        return
    whole_norm = optimizer.scaled_global_norm
    optimizer.scaled_global_norm = lambda *arguments, **named: judged(whole_norm(*arguments, **named))


def check_no_gradients(optimizer: Any) -> None:
    """Have ZeRO look at no gradient by itself: one that is not finite makes the norm so, which `judge_norm` judges."""
    optimizer.check_grad_overflow = False


@contextmanager
def trust_norms() -> Iterator[None]:
    """Have ZeRO not read the norm back while it steps: the optimizer was told the verdict on it.

    ZeRO asks in two places whether a norm is valid, each of which waits for the device.
    """
    modules = [sys.modules[name] for name in JUDGES if name in sys.modules]  # importing both would take seconds
    known = [module.is_invalid_grad_norm for module in modules]
    for module in modules:
        setattr(module, "is_invalid_grad_norm", _valid)  # noqa: B010 - not an attribute that modules are known to have
    try:
        yield
    finally:
        for module, function in zip(modules, known, strict=True):
            setattr(module, "is_invalid_grad_norm", function)  # noqa: B010


def _valid(norm: object) -> bool:
    return False


def reduce_by(finish: Callable[[], None], optimizer: Any) -> None:
    """Have ZeRO 1 take gradients that `finish` leaves reduced in the parameters, instead of reducing them itself."""

    def reduce_gradients(**_: object) -> None:
        finish()
        optimizer.overlapping_partition_gradients_reduce_epilogue()

    optimizer.reduce_gradients = reduce_gradients
