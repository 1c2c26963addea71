"""The DeepSpeed configuration, generated from ours by a pure function. Nobody writes or edits it by hand."""

from __future__ import annotations

from typing import Any

from trainer.config.model import ModelConfig
from trainer.config.run import RunConfig
from trainer.plan.counting import count_parameters
from trainer.plan.sharding import Precision

# Gradients are reduced and parameters gathered in buckets of so many elements. A share of the model keeps buffers small
# beside it; BUCKET_ELEMENTS fill any link, and FEWEST keep the number of messages of a small model down.
MODEL_SHARE, FEWEST_ELEMENTS, BUCKET_ELEMENTS = 32, 1 << 16, 50_000_000
# ZeRO 3 keeps gathered parameters that are used again soon, and gathers ahead, up to this share of the model.
LIVE_SHARE = 16

NOT_INSTALLED = (
    "parallel.engine is deepspeed, and DeepSpeed is not installed here: install it, or set parallel.engine to fsdp"
)


def deepspeed_config(config: RunConfig, *, stage: int, accumulation: int, precision: Precision) -> dict[str, object]:
    """Return the JSON for `deepspeed.initialize` at an effective ZeRO stage.

    `train_micro_batch_size_per_gpu` is 1 by convention: our engine normalises the loss itself, by the global sum of
    token weights, and DeepSpeed uses the number for nothing but its own counters.
    """
    result: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        # At stage 0 the engine takes the norm and clips itself: DeepSpeed would not report it.
        "gradient_clipping": config.optim.clip_norm if stage else 0.0,
        "steps_per_print": 10**9,
        # Its throughput timer waits for the device twice a step, and nobody reads it.
        "timers": {"throughput": {"enabled": False}},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _zero(config, stage),
    }
    if precision == "bf16" and stage:
        result["bf16"] = {"enabled": True, "check_grad_overflow": True}
        result["data_types"] = {"grad_accum_dtype": "fp32"}
    elif precision == "bf16":
        # bf16 without ZeRO takes a phantom optimizer step in DeepSpeed: parameters stay fp32, compute is autocast.
        result["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return result


def bucket_elements(model: ModelConfig) -> int:
    """Return the elements of a bucket: gradients reduced, parameters gathered, what ZeRO 3 steps at a time.

    They are even, which DeepSpeed asks of what ZeRO 1 and 2 gather.
    """
    share = count_parameters(model).total // MODEL_SHARE
    return min(BUCKET_ELEMENTS, max(FEWEST_ELEMENTS, share + share % 2))


def live_elements(model: ModelConfig) -> int:
    """Return the elements of gathered parameters that ZeRO 3 keeps and gathers ahead of their use."""
    return count_parameters(model).total // LIVE_SHARE


def _zero(config: RunConfig, stage: int) -> dict[str, object]:
    parallel = config.parallel
    zero: dict[str, Any] = {"stage": stage}
    if stage == 0:
        return zero
    bucket = bucket_elements(config.model)
    zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if stage in (1, 3):
        # Gradients are reduced from where they are: a buffer would only be one more copy.
        zero["contiguous_gradients"] = False
    if stage == 3:
        live = live_elements(config.model)
        zero |= {
            "sub_group_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_max_live_parameters": live,
            "stage3_max_reuse_distance": live,
            "stage3_param_persistence_threshold": 10_000,
        }
    if parallel.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": config.device != "cpu"}
    if parallel.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": config.device != "cpu"}
    return zero
