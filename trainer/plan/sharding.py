"""What a layout comes to for any engine: the precision, the ZeRO stage that is worth running, what Muon needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trainer.contract.errors import UserError

if TYPE_CHECKING:
    from trainer.config.run import RunConfig

Precision = Literal["fp32", "bf16"]


def resolve_precision(asked: str, *, gpu: bool) -> Precision:
    """Return in what weights and activations are held. fp8 is a way to multiply: it holds them as bf16 does."""
    if asked == "auto":
        return "bf16" if gpu else "fp32"
    return "fp32" if asked == "fp32" else "bf16"


def check_optimizer(config: RunConfig) -> None:
    """Raise `UserError` where an optimizer cannot work with the layout."""
    if config.optim.name == "muon" and config.parallel.offload != "none":
        raise UserError(
            f"optim.name muon makes matrices orthogonal on the GPU, and parallel.offload is {config.parallel.offload}: "
            "set it to none; ZeRO shards Muon's momentum at every stage"
        )


def effective_stage(config: RunConfig, *, replicas: int, precision: Precision) -> int:
    """Return the ZeRO stage that is worth running: 0 where one replica leaves nothing to shard.

    In fp32 the parameters are the master weights, so a stage above 0 would only copy them. In bf16 stage 1 keeps the
    master copy, and offloading needs its stage.
    """
    parallel = config.parallel
    if replicas == 1 and parallel.offload == "none" and precision == "fp32":
        return 0
    return parallel.zero_stage
