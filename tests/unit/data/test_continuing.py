"""Going on from a checkpoint under other settings: refused by name, or every sample is read as often as meant."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.data.builders import random_docs, write_set
from trainer.config.data import DataConfig
from trainer.contract.errors import UserError
from trainer.data.read.batches import Batches
from trainer.data.read.opening import open_batches

T, S, STEPS = 16, 12, 20  # the checkpoint is after STEPS steps
POSITION = STEPS * S * T  # in tokens
SOURCES = [{"name": "a", "path": "x.jsonl", "weight": 0.3}, {"name": "b", "path": "x.jsonl", "weight": 0.7}]
SWAPPED = [{**SOURCES[0], "weight": 0.7}, {**SOURCES[1], "weight": 0.3}]
LATE = [{"from_tokens": POSITION, "weights": {"a": 1.0}}]
EARLY = [{"from_tokens": POSITION - T, "weights": {"a": 1.0}}]
PLAIN = [{key: value for key, value in source.items() if key != "weight"} for source in SOURCES]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "made"
    write_set(path, {"a": random_docs(1, 300), "b": random_docs(2, 600)}, shard_tokens=2000)
    return path


def start(root: Path, state: dict[str, Any] | None = None, **changes: Any) -> Batches:
    """Open a run: its data section, and in `run` what lies outside of it."""
    run = {"context_length": T, "sequences_per_step": S, "micro_batch": 5, "seed": 7, **changes.pop("run", {})}
    data = DataConfig.model_validate(
        {"name": root.name, "root": str(root.parent), "sources": changes.pop("sources", PLAIN), **changes}
    )
    batches = open_batches(data, state=state, **run)
    batches.close()
    return batches


def state_of(root: Path, **settings: Any) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.dumps(start(root, **settings).state(STEPS)))  # as a checkpoint keeps it
    return state


def ids(batches: Batches, first: int, end: int) -> np.ndarray:
    return np.concatenate([batches.sample_ids(step) for step in range(first, end)])


WINDOW = {"shuffle_window": 512}
MIXED: dict[str, Any] = {"sources": SOURCES}
REFUSED = {
    "seed": ({}, {"run": {"seed": 8}}, "seed 7, this run has 8"),
    "context": ({}, {"run": {"context_length": 8}}, "context_length 16, this run has 8"),
    "batch": ({}, {"run": {"sequences_per_step": 24}}, "sequences per step of 12, this run has 24"),
    "packing": ({}, {"packing": "best_fit"}, "data.packing 'concatenate', this run has 'best_fit'"),
    "no packing": ({"packing": "best_fit"}, {}, "data.packing 'best_fit', this run has 'concatenate'"),
    "window": ({}, WINDOW, "data.shuffle_window None, this run has 512"),
    "another window": (WINDOW, {"shuffle_window": 1024}, "data.shuffle_window 512, this run has 1024"),
    "weights": (MIXED, {"sources": SWAPPED}, "weights a 0.300, b 0.700, this run has weights a 0.700, b 0.300"),
    "no weights": (MIXED, {}, "weights a 0.300, b 0.700, this run has no weights"),
    "new weights": ({}, MIXED, "no weights, this run has weights a 0.300, b 0.700"),
    "early stage": (MIXED, {**MIXED, "stages": EARLY}, "b 0.700; a 1.000 from token 3,824"),
    "no early stage": ({**MIXED, "stages": EARLY}, MIXED, "the weights of data.sources and data.stages must be"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_change_the_order_is_refused_by_name(root: Path, what: str) -> None:
    before, after, words = REFUSED[what]
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        start(root, state_of(root, **before), **after)


@pytest.mark.parametrize("what", REFUSED)
def test_older_checkpoints_are_refused_where_they_cannot_be_compared(root: Path, what: str) -> None:
    """They noted neither packing nor window nor weights, but how often each source was read."""
    before, after, _ = REFUSED[what]
    if before != {} and after == {}:
        before, after = after, before  # what a window or a packing was cannot be known; a default is taken for one
    with pytest.raises(UserError, match="the checkpoint was"):
        start(root, older(state_of(root, **before)), **after)


def older(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in ("order", "document_mask")}


@pytest.mark.parametrize("settings", [{}, MIXED, {**MIXED, "stages": EARLY}, {"document_mask": True}])
def test_older_checkpoints_go_on_where_they_mean_the_same(root: Path, settings: dict[str, Any]) -> None:
    whole = start(root, **settings)
    resumed = start(root, older(whole.state(STEPS)), **settings)
    assert (ids(resumed, STEPS, 40) == ids(whole, STEPS, 40)).all()


ALLOWED: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "nothing": ({}, {}, None),
    "same shares": (MIXED, {"sources": [{**s, "weight": 10 * s["weight"]} for s in SOURCES]}, None),
    "late stage": (MIXED, {**MIXED, "stages": LATE}, "stages from token 3,840 on: weights a 0.300, b 0.700 before"),
    "no late stage": ({**MIXED, "stages": LATE}, MIXED, "1.000 from token 3,840 before, weights a 0.300, b 0.700 now"),
    "mask": ({}, {"document_mask": True}, "data.document_mask was False and is True from here on"),
    "ranks": ({}, {"run": {"dp_rank": 0, "dp_size": 1, "micro_batch": 2}}, None),
    "cache": ({}, {"cache": {"ahead_steps": 3}}, None),
    "longer": ({}, {"run": {"total_steps": 10**6}}, None),
}  # fmt: skip


@pytest.mark.parametrize("what", ALLOWED)
def test_what_may_change_is_said_and_repeats_nothing(root: Path, what: str) -> None:
    before, after, words = ALLOWED[what]
    first = start(root, **before)
    second = start(root, first.state(STEPS), **after)
    assert second.changes == [] if words is None else words in second.changes[0]
    read = Counter(np.concatenate([ids(first, 0, STEPS), ids(second, STEPS, 2 * STEPS)]).tolist())
    pools = second.samples.pool_samples(T)
    for number, size in enumerate(pools):
        begin = int(pools[:number].sum())
        counts = [read[k] for k in range(begin, begin + int(size))]
        assert max(counts) - min(counts) <= 1, "a sample is read again only after all of its source were"


def test_skipped_stretches_are_part_of_the_position(root: Path) -> None:
    """A stage that begins between the steps that were trained and the place of the order that they reached."""
    skipping = {**MIXED, "run": {"skip_steps": ((4, 9),)}}
    stage = [{"from_tokens": POSITION + 2 * S * T, "weights": {"a": 1.0}}]
    with pytest.raises(UserError, match="token 4,800, the weights"):
        start(root, state_of(root, **skipping), **MIXED, stages=stage)
    assert start(root, state_of(root, **skipping), **MIXED).skipped == ((4, 9),)
