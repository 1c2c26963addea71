"""Adam on the host for GPUs whose optimizer state is offloaded."""

from __future__ import annotations

import torch

from trainer.config.optim import OptimConfig
from trainer.models.interface import LanguageModel
from trainer.optim.groups import parameter_groups


def host_adam(model: LanguageModel, optim: OptimConfig, lr: float) -> torch.optim.Optimizer:
    """Return DeepSpeed's AdamW for host memory. It is compiled at its first use, which needs g++."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    groups = parameter_groups(model, optim)
    return DeepSpeedCPUAdam(groups, lr=lr, betas=optim.betas, eps=optim.eps, adamw_mode=True)  # type: ignore[no-any-return]
