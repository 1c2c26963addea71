"""Whether a run compiles its blocks: the one place that decides what `parallel.compile: auto` means."""

from __future__ import annotations

from trainer.config.run import RunConfig


def compiles(config: RunConfig, *, gpu: bool) -> bool:
    """Return whether the blocks of a run are compiled on such a device, unless a rank there has no triton."""
    asked = config.parallel.compile
    return asked if asked != "auto" else gpu and why_not_compiled(config) is None


def why_not_compiled(config: RunConfig) -> str | None:
    """Return why `auto` leaves the blocks of a run as they are on a GPU; None where it compiles them.

    It compiles what was found equal to one process on ranks of a CPU (`tests/dist`), and what can be compiled at all.
    """
    parallel = config.parallel
    reasons = {
        "its gathering interrupts every compiled layer (zero_stage 3)": parallel.zero_stage == 3,
        "states are handed from block to block (model.carry)": config.model.carries,
        "compiled blocks cannot be listened to (tracking.activations)": config.tracking.activations,
        "fp8 has products of its own (precision fp8)": config.precision == "fp8",
        f"it was never compared there (model.family {config.model.family})": config.model.family != "transformer",
        "it was never compared there (recompute)": parallel.recompute != "none",
        "it was never compared there (dropout)": config.model.drops,
        "it was never compared there (offload)": parallel.offload != "none",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
