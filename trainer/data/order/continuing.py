"""Whether a run's order of data goes on where a checkpoint left it: everything that determines it is compared.

What a checkpoint notes of the order (`Batches.state`):

    data_hash, seed, context_length, sequences_per_step   must be the same
    order.version, packing, packing_version, shuffle_window, streams, batch_warmup   must be the same
    order.mixture    the shares of each stage: those that began before the checkpoint must be the same, later may change
    document_mask    may change, since it moves no sample

Changes that are allowed are returned as sentences, to be said. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.contract.errors import UserError
from trainer.data.order.mixture import BLOCK

ORDER_VERSION = 1  # of trainer/data/order/order.py and mixture.py: raise it when the same settings give another order
_WORDS = {
    "data_hash": "data",
    "seed": "seed",
    "context_length": "context_length",
    "sequences_per_step": "a number of sequences per step of",
    "version": "version of the order of data",
    "packing": "data.packing",
    "packing_version": "version of the packing",
    "shuffle_window": "data.shuffle_window",
    "order": "data.order",
    "batch_warmup": "a batch.warmup of (sequences, steps)",
}
_ADVICE = "Use the checkpoint's, or start anew from it (load: warm_start)"
Shares = list[list[Any]]  # of each stage: its first sample, and the places of each source in a block


def check_order(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """Compare the state of a checkpoint with that of the run that goes on from it, at the same step.

    Returns what changed and may change. Raises UserError that names the setting where the order would not go on.
    """
    for key in ("data_hash", "seed", "context_length", "sequences_per_step"):
        _same(key, theirs.get(key), mine[key])
    if "order" not in theirs:
        _check_older(theirs, mine)
        return []
    for key in ("version", "packing", "packing_version", "shuffle_window"):
        _same(key, theirs["order"].get(key), mine["order"][key])
    _same("order", _kind(theirs["order"]), _kind(mine["order"]))
    _same("batch_warmup", theirs["order"].get("batch_warmup", []), mine["order"].get("batch_warmup", []))
    changes = _check_mixture(theirs, mine)
    if theirs["document_mask"] != mine["document_mask"]:
        changes.append(f"data.document_mask was {theirs['document_mask']} and is {mine['document_mask']} from here on")
    return changes


def _kind(order: Mapping[str, Any]) -> str:
    """Return the kind of an order; one that is noted without it is shuffled."""
    return "streams" if order.get("streams") else "shuffled"


def _same(key: str, theirs: Any, mine: Any) -> None:
    if theirs != mine:
        raise UserError(
            f"the checkpoint was trained with {_WORDS[key]} {theirs!r}, this run has {mine!r}: "
            f"the order of data would not go on. {_ADVICE}"
        )


def _check_mixture(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """Compare the stages of two mixtures: those that begin at the checkpoint's position or later may differ."""
    position, length = int(theirs["samples"]), int(theirs["context_length"])
    old, new = theirs["order"]["mixture"], mine["order"]["mixture"]
    if old == new:
        return []
    if old is None or new is None or _before(old, position) != _before(new, position):
        raise UserError(
            f"the checkpoint was trained with {_shown(old, length, position)}, this run has "
            f"{_shown(new, length, position)}: the order of data would not go on. Until the checkpoint's position, "
            f"token {position * length:,}, the weights of data.sources and data.stages must be the same. {_ADVICE}"
        )
    return [f"data.stages from token {position * length:,} on: {_shown(old, length)} before, {_shown(new, length)} now"]


def _before(stages: Shares, position: int) -> Shares:
    return [stage for stage in stages if stage[0] < position]


def _shown(stages: Shares | None, context_length: int, position: int | None = None) -> str:
    """Return stages (those that begin before a position) as text."""
    if stages is None:
        return "no weights"
    texts: Sequence[str] = [
        ", ".join(f"{name} {places / BLOCK:.3f}" for name, places in shares.items())
        + (f" from token {begin * context_length:,}" if begin else "")
        for begin, shares in (stages if position is None else _before(stages, position) or stages[:1])
    ]
    return f"weights {'; '.join(texts)}"


def _check_older(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Compare with a checkpoint of a version that noted neither packing nor window nor weights.

    Packing and weights show in how often each source was read. A window does not, nor which pairs were packed.
    """
    settings = mine["order"]
    _same("order", "shuffled", _kind(settings))
    _same("batch_warmup", [], settings.get("batch_warmup", []))
    if settings["packing"] == "best_fit":
        raise UserError(
            "the checkpoint was written by an earlier version of Escala, whose data.packing best_fit left out the "
            "first token of every document: its sequences were others. Go on with that version, or start anew from "
            "it (load: warm_start)"
        )
    if settings["shuffle_window"] is not None:
        raise UserError(
            f"the checkpoint was written by an earlier version of Escala, which did not note data.shuffle_window: "
            f"whether it was {settings['shuffle_window']} cannot be known. Go on with that version, or start anew "
            f"from it (load: warm_start)"
        )
    if theirs["epochs"] != mine["epochs"]:
        raise UserError(
            f"the checkpoint was trained with other weights of data.sources, data.stages or data.packing: after step "
            f"{theirs['step']} it had read {_passes(theirs['epochs'])}, this run would have read "
            f"{_passes(mine['epochs'])}. {_ADVICE}"
        )


def _passes(epochs: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {passes:.3f} times" for name, passes in epochs.items())
