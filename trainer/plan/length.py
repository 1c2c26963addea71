"""How many optimizer steps a run has, and how many tokens. A constant batch is one that rises over no steps."""

from __future__ import annotations

from trainer.config.run import RunConfig
from trainer.data.order.ramp import Ramp
from trainer.plan.batch import whole_sequences


def total_steps(config: RunConfig) -> int:
    """Return the optimizer steps of the run; a length in tokens is rounded up to whole steps.

    Raises UserError where a batch is no whole number of sequences, as all functions here do.
    """
    if config.steps is not None:
        return config.steps
    assert config.tokens is not None
    return ramp_of(config).steps_for(-(-config.tokens // config.model.context_length))


def total_tokens(config: RunConfig) -> int:
    """Return the tokens of all its steps."""
    return tokens_before(config, total_steps(config))


def tokens_before(config: RunConfig, step: int) -> int:
    """Return the tokens of the first `step` steps."""
    return ramp_of(config).before(step) * config.model.context_length


def ramp_of(config: RunConfig) -> Ramp:
    """Return the sequences of each step."""
    context, warmup = config.model.context_length, config.batch.warmup
    sequences = whole_sequences(config.batch.tokens_per_step, context)
    if warmup is None:
        return Ramp(sequences)
    return Ramp.doubling(sequences, warmup.doublings, -(-warmup.tokens // context))
