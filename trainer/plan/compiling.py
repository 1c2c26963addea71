"""What torch.compile takes of a run: the one place that decides what `parallel.compile` means, and what it refuses.

    blocks  each block by itself, and the loss of the logits. What shards and gathers stays outside, so any engine may
            do that between blocks
    model   embedding, blocks, head and loss as one program: fewer launches, for a longer compilation
    graphs  the same, replayed as CUDA graphs (torch's `reduce-overhead`): for models whose kernels are shorter than
            their launches. Everything must lie where it lay in the step before

`true` means blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trainer.contract.errors import UserError

if TYPE_CHECKING:
    from trainer.config.parallel import Degrees
    from trainer.config.run import RunConfig
    from trainer.plan.batch import BatchPlan

Mode = Literal["blocks", "model", "graphs"]
NO_GPU = "parallel.compile graphs records CUDA graphs, and there is no GPU: set it to model or blocks"


def compile_mode(config: RunConfig, *, gpu: bool) -> Mode | None:
    """Return what of a run is compiled on such a device, unless it is left to `auto` and a rank there has no triton."""
    asked = asked_mode(config)
    if asked == "auto":
        return "blocks" if gpu and why_not_compiled(config) is None else None
    return asked


def asked_mode(config: RunConfig) -> Mode | Literal["auto"] | None:
    """Return what a run asks for."""
    asked = config.parallel.compile
    if isinstance(asked, bool):
        return "blocks" if asked else None
    return asked


def why_not_compiled(config: RunConfig) -> str | None:
    """Return why `auto` leaves a run as it is on a GPU; None where it compiles the blocks.

    It compiles what was found equal to one process on ranks of a CPU (`tests/dist`), and what can be compiled at all.
    """
    parallel = config.parallel
    reasons = {
        "its gathering interrupts every compiled layer (zero_stage 3)": _gathers_layers(config),
        "states are handed from block to block (model.carry)": config.model.carries,
        "compiled blocks cannot be listened to (tracking.activations)": config.tracking.activations,
        f"it was never compared there (model.family {config.model.family})": config.model.family != "transformer",
        "it was never compared there (dropout)": config.model.drops,
        "it was never compared there (offload)": parallel.offload != "none",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def check_compile(config: RunConfig) -> None:
    """Raise `UserError` where a run asks to compile what cannot be, by its configuration alone."""
    asked = asked_mode(config)
    if asked in (None, "auto"):
        return
    whole, stage = asked != "blocks", config.parallel.zero_stage
    offload = config.parallel.offload
    _refuse_first(
        (
            _gathers_layers(config),
            "compile gains nothing with zero_stage 3, whose gathering interrupts every compiled layer: set zero_stage "
            "to 0, 1 or 2, engine to fsdp, or compile to false",
        ),
        (
            whole and stage == 3,
            f"parallel.compile {asked} has the whole model gathered at once, and zero_stage 3 gathers a block at a "
            "time: set compile to blocks, or zero_stage to 1 or 2",
        ),
        (
            config.model.carries,
            "model.carry hands states from block to block, which is not compiled: set parallel.compile to false",
        ),
        (
            config.tracking.activations,
            "tracking.activations listens to blocks, and compiled ones cannot be listened to: set one to false",
        ),
        (
            whole and config.model.family != "transformer",
            f"parallel.compile {asked} was never compared with model.family {config.model.family}: set it to blocks",
        ),
        (
            asked == "graphs" and offload != "none",
            f"parallel.compile graphs was never compared with offload {offload}: set compile to blocks",
        ),
        (asked == "graphs" and config.device == "cpu", NO_GPU),
    )


def check_graphs(config: RunConfig, degrees: Degrees, batch: BatchPlan, *, gpu: bool) -> None:
    """Raise `UserError` where CUDA graphs are asked for and the layout moves what they read or write."""
    if asked_mode(config) != "graphs":
        return
    replicas = degrees.data * degrees.sequence
    _refuse_first(
        (not gpu, NO_GPU),
        (
            batch.accumulation > 1,
            f"parallel.compile graphs needs one micro-batch a step, there are {batch.accumulation}: gradients of one "
            "would lie where those of the next are written. Raise batch.micro_batch, or set compile to model",
        ),
        (
            degrees.tensor * degrees.sequence > 1,
            f"parallel.compile graphs was never compared on {degrees.tensor} tensor and {degrees.sequence} sequence "
            "ranks, whose collectives would be in the graph: set it to model or blocks",
        ),
        (
            config.parallel.engine == "fsdp" and replicas > 1,
            "parallel.compile graphs needs parameters that stay where they are, and engine fsdp gathers them anew "
            f"each step on {replicas} replicas: set engine to deepspeed, or compile to model",
        ),
    )


def _refuse_first(*reasons: tuple[bool, str]) -> None:
    for holds, reason in reasons:
        if holds:
            raise UserError(reason)


def _gathers_layers(config: RunConfig) -> bool:
    """Whether every layer of a block is gathered by itself: DeepSpeed's stage 3. FSDP gathers whole blocks."""
    return config.parallel.zero_stage == 3 and config.parallel.engine == "deepspeed"
