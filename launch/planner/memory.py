"""Memory of one GPU: the formulas that the run's own plan uses, and what the runtime keeps beside them."""

from __future__ import annotations

from trainer.config.deepspeed import BUCKET_ELEMENTS
from trainer.config.memory import rank_memory, rank_parameters
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig

# The CUDA context, NCCL's buffers and the allocator's unused pieces take a share of every GPU.
USABLE = 0.92


def gpu_memory(model: ModelConfig, parallel: ParallelConfig, *, micro_batch: int, data: int) -> dict[str, int]:
    """Return the bytes of one rank in bf16 by part, with DeepSpeed's buckets as `buffers`, and the total."""
    memory = rank_memory(model, parallel, data_parallel=data, micro_batch=micro_batch, bytes_per_value=2, gpu=True)
    parts = memory.by_part()
    parts["accumulation"] = accumulation(model, parallel, data)
    parts["buffers"] = buffers(model, parallel)
    parts["total"] += parts["accumulation"] + parts["buffers"]
    return parts


def accumulation(model: ModelConfig, parallel: ParallelConfig, data: int) -> int:
    """Return what it costs to sum gradients in fp32 rather than bf16: two bytes more for each that a rank keeps.

    At stage 1 DeepSpeed's BF16_Optimizer keeps the whole fp32 sum on every rank. At stage 0 we train fp32 parameters
    under autocast: 4 + 4 + 8 bytes where the paper has 2 + 2 + 12, the same sum.
    """
    if parallel.zero_stage == 0:
        return 0
    held = 2 * rank_parameters(model, parallel.tensor)
    return held if parallel.zero_stage == 1 else held // (data * parallel.sequence)


def buffers(model: ModelConfig, parallel: ParallelConfig) -> int:
    """Return the bytes of the buckets in which DeepSpeed reduces gradients and gathers parameters (two of them)."""
    if parallel.zero_stage == 0:
        return 0
    bucket = min(BUCKET_ELEMENTS, rank_parameters(model, parallel.tensor))
    return 2 * bucket * 2
