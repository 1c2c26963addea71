"""What we change inside DeepSpeed 0.19.8: time, screen and memory that it spends for nothing here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import deepspeed
import torch
from torch import Tensor


def quicken_deepspeed() -> None:
    """Leave out what costs time or screen for nothing while DeepSpeed builds its engine."""
    deepspeed.runtime.zero.stage_1_and_2.get_norm_dtype = _norm_dtype
    deepspeed.runtime.engine.DeepSpeedEngine._do_optimizer_sanity_check = _one_zero_optimizer


def _norm_dtype() -> torch.dtype:
    """DeepSpeed would copy every gradient to float64 to take its norm; float32 agrees with one process as well."""
    return torch.float32


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


def reduce_by(finish: Callable[[], None], optimizer: Any) -> None:
    """Have ZeRO 1 take gradients that `finish` leaves reduced in the parameters, instead of reducing them itself."""

    def reduce_gradients(**_: Any) -> None:
        finish()
        optimizer.overlapping_partition_gradients_reduce_epilogue()

    optimizer.reduce_gradients = reduce_gradients
