"""What a user should know of a plan, or could set: one sentence each, with the setting to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from launch.planner.measured import card_rates
from trainer.config.run import RunConfig
from trainer.plan.gpus import COMPARED

if TYPE_CHECKING:
    from launch.planner.layouts import Layouts

VOCABULARY_MULTIPLE = 128  # splits over all usual tensor degrees
WORTH = 0.98  # of the step time: a change that gains less is not named
ROOMY = 0.95  # of the usable memory: what needs more may end by fragmentation


def notes(config: RunConfig, found: Layouts, search: Callable[[RunConfig], Layouts]) -> Iterator[str]:
    """Yield the sentences. `search` plans a changed run on the same cluster."""
    yield from _vocabulary(config, found, search)
    yield from _batch(config, found.world)
    yield from _fp8(config, found, search)
    yield from _tight(found)
    card = card_rates(found.gpu)
    if found.ranked and card is not None:
        yield (
            f"Times are by rates that were fitted to {card.steps} steps measured on a {found.gpu.name} on {card.date}."
        )
    elif found.ranked and found.gpu.name not in COMPARED:
        yield f"No published run on a {found.gpu.name} was compared with this estimate: take its times as a guess."


def _vocabulary(config: RunConfig, found: Layouts, search: Callable[[RunConfig], Layouts]) -> Iterator[str]:
    rows = config.model.vocab_rows
    if not any("vocabulary rows" in refused.reason for refused in found.impossible):
        return
    model = config.model.model_copy(update={"vocab_multiple_of": VOCABULARY_MULTIPLE})
    if model.vocab_rows == rows:
        return
    padded = search(config.model_copy(update={"model": model}))
    setting = f"--set model.vocab_multiple_of={VOCABULARY_MULTIPLE} makes them {model.vocab_rows}"
    cannot = f"{rows} vocabulary rows cannot be split over all tensor degrees"
    if not padded.ranked:
        return
    if not found.ranked:
        yield f"{cannot}: {setting}, and {padded.best.layout} fits."
        return
    then, now = padded.best, found.best
    gain = f"not {now.mfu:.0%}" if then.time.total < WORTH * now.time.total else "which is no faster"
    yield f"{cannot}: {setting}, and the best layout then reaches {then.mfu:.0%} MFU, {gain}."


def _batch(config: RunConfig, world: int) -> Iterator[str]:
    tokens, context = config.batch.tokens_per_step, config.model.context_length
    sequences = tokens // context
    if sequences % world == 0:
        return
    worlds = [w for w in range(1, sequences + 1) if sequences % w == 0]
    near = [w for w in worlds if w < world][-1:] + [w for w in worlds if w > world][:1]
    unit = context * world
    batches = [b for b in (tokens // unit * unit, -(-tokens // unit) * unit) if b]
    yield (
        f"{sequences} sequences per step (batch.tokens_per_step {tokens} / context_length {context}) are not shared "
        f"evenly by {world} GPUs, so that pure data parallelism is left out: "
        f"take {' or '.join(str(w) for w in near)} GPUs, or --set batch.tokens_per_step="
        f"{' or '.join(str(b) for b in batches)}."
    )


def _fp8(config: RunConfig, found: Layouts, search: Callable[[RunConfig], Layouts]) -> Iterator[str]:
    if config.precision != "fp8" or not found.ranked:
        return
    plain = search(config.model_copy(update={"precision": "bf16"}))
    if plain.ranked and plain.best.time.total < found.best.time.total:
        yield (
            f"By this estimate bf16 is faster: {plain.best.mfu:.0%} MFU, not {found.best.mfu:.0%}. Casting to fp8 "
            "costs more here than the products gain: --set precision=bf16."
        )


def _tight(found: Layouts) -> Iterator[str]:
    if not found.ranked or found.best.memory["total"] <= ROOMY * found.gpu.usable:
        return
    roomy = next((e for e in found.ranked if e.memory["total"] <= ROOMY * found.gpu.usable), None)
    beside = (
        "none of the others leaves more"
        if roomy is None
        else (
            f"the fastest that leaves {1 - ROOMY:.0%} takes {roomy.time.total / found.best.time.total - 1:.1%} longer: "
            f"{roomy.layout}"
        )
    )
    yield f"The best layout nearly fills its GPUs, and a fragmented allocator may run out of memory: {beside}."
