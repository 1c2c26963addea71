"""How many optimizer steps a run has."""

from __future__ import annotations

from trainer.config.run import RunConfig


def total_steps(config: RunConfig) -> int:
    """Return the optimizer steps of the run; a length in tokens is rounded up to whole steps."""
    if config.steps is not None:
        return config.steps
    assert config.tokens is not None
    return -(-config.tokens // config.batch.tokens_per_step)
