"""How many optimizer steps a run has, and how many tokens."""

from __future__ import annotations

from trainer.config.run import RunConfig
from trainer.data.order.ramp import Ramp


def total_steps(config: RunConfig) -> int:
    """Return the optimizer steps of the run; a length in tokens is rounded up to whole steps."""
    if config.steps is not None:
        return config.steps
    assert config.tokens is not None
    if config.batch.warmup is None:
        return -(-config.tokens // config.batch.tokens_per_step)
    return ramp_of(config).steps_for(-(-config.tokens // config.model.context_length))


def total_tokens(config: RunConfig) -> int:
    """Return the tokens of all its steps."""
    return tokens_before(config, total_steps(config))


def tokens_before(config: RunConfig, step: int) -> int:
    """Return the tokens of the first `step` steps."""
    if config.batch.warmup is None:
        return step * config.batch.tokens_per_step
    return ramp_of(config).before(step) * config.model.context_length


def ramp_of(config: RunConfig) -> Ramp:
    """Return the sequences of each step. The batch is a multiple of the context length."""
    context, warmup = config.model.context_length, config.batch.warmup
    sequences = config.batch.tokens_per_step // context
    if warmup is None:
        return Ramp(sequences)
    return Ramp.doubling(sequences, warmup.doublings, -(-warmup.tokens // context))
