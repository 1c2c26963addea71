"""From tokens per step to sequences, micro-batches and accumulation. The world follows the batch, never the reverse."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.contract.errors import UserError

# More tokens in one forward pass stop paying on CPUs and on GPUs alike; fewer leave the matrices thin.
MICRO_BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step is divided. All counts are in sequences of `context_length` tokens."""

    sequences_per_step: int
    sequences_per_rank: int  # of one data-parallel rank
    micro_batch: int
    accumulation: int


def plan_batch(tokens_per_step: int, context_length: int, data_parallel: int, micro_batch: int | None) -> BatchPlan:
    """Divide a global batch over data-parallel ranks. Raises UserError with the numbers where it does not divide."""
    sequences = whole_sequences(tokens_per_step, context_length)
    if sequences % data_parallel:
        unit = context_length * data_parallel
        raise UserError(
            f"{sequences} sequences per step (batch.tokens_per_step {tokens_per_step} / context_length "
            f"{context_length}) cannot be shared by {data_parallel} data-parallel ranks: "
            f"use tokens_per_step {_around(tokens_per_step, unit)}"
        )
    per_rank = sequences // data_parallel
    if micro_batch is None:
        most = max(1, MICRO_BATCH_TOKENS // context_length)
        micro_batch = max(size for size in range(1, min(most, per_rank) + 1) if per_rank % size == 0)
    elif per_rank % micro_batch:
        raise UserError(
            f"batch.micro_batch {micro_batch} does not divide the {per_rank} sequences of one data-parallel rank "
            f"({sequences} per step / {data_parallel} ranks)"
        )
    return BatchPlan(sequences, per_rank, micro_batch, per_rank // micro_batch)


def whole_sequences(tokens_per_step: int, context_length: int) -> int:
    """Return the sequences of one optimizer step. Raises UserError where they are not whole."""
    if tokens_per_step % context_length:
        raise UserError(
            f"batch.tokens_per_step {tokens_per_step} is not a multiple of model.context_length {context_length}: "
            f"use {_around(tokens_per_step, context_length)}"
        )
    return tokens_per_step // context_length


def _around(value: int, unit: int) -> str:
    """Return the multiples of `unit` next to `value`, for an error message."""
    below, above = value // unit * unit, -(-value // unit) * unit
    return f"{below} or {above}" if below else f"{above}"
