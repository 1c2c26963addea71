"""Streams: each lane reads one stretch of the text after the other, whoever reads it, from wherever it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.data.builders import EOS, random_docs, stream, write_set
from trainer.config.data import DataConfig, SourceConfig
from trainer.contract.errors import UserError
from trainer.data.order.order import rank_indices
from trainer.data.order.streams import Streams
from trainer.data.read.batches import Batches, MicroBatch
from trainer.data.read.opening import open_batches

T, S = 16, 12
DOCS = {"a": random_docs(1, 120), "b": random_docs(2, 60)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "made"
    write_set(path, DOCS, shard_tokens=500, held_out=random_docs(3, 30))
    return path


def data(root: Path, **changes: Any) -> DataConfig:
    sources = (SourceConfig(name="a", path="x.jsonl"), SourceConfig(name="b", path="y.jsonl"))
    values = {"name": root.name, "root": str(root.parent), "sources": sources, "order": "streams"}
    return DataConfig(**{**values, **changes})


def opened(root: Path, dp_rank: int = 0, dp_size: int = 1, **options: Any) -> Batches:
    config = options.pop("config", None) or data(root)
    values = {"context_length": T, "sequences_per_step": S, "micro_batch": 3, "seed": 7, **options}
    return open_batches(config, dp_rank=dp_rank, dp_size=dp_size, **values)


def joined(batches: list[MicroBatch]) -> dict[str, np.ndarray]:
    """Return the rows of a rank's micro-batches by field."""
    fields = ("inputs", "targets", "documents", "begins")
    present = [name for name in fields if getattr(batches[0], name) is not None]
    return {name: torch.cat([getattr(batch, name) for batch in batches]).numpy() for name in present}


sizes = st.integers(1, 400)


@given(
    pools=st.lists(sizes, min_size=1, max_size=3), lanes=st.integers(1, 12), seed=st.integers(0, 2**40), data=st.data()
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_gives_each_lane_one_stretch_and_each_segment_once(
    pools: list[int], lanes: int, seed: int, data: st.DataObject
) -> None:
    if sum(pools) < lanes:
        with pytest.raises(UserError, match=f"each of the {lanes} lanes"):
            Streams(pools, lanes, seed)
        return
    order = Streams(pools, lanes, seed)
    epoch = data.draw(st.integers(0, 1000))
    steps = np.arange(order.length) + epoch * order.length
    read = order((steps[:, None] * lanes + np.arange(lanes)).ravel()).reshape(order.length, lanes)
    assert (np.diff(read, axis=0) % sum(pools) == 1 % sum(pools)).all()
    assert len(np.unique(read)) == read.size > sum(pools) - lanes


@given(pools=st.lists(sizes, min_size=1, max_size=3), lanes=st.sampled_from([1, 2, 4, 12]), step=st.integers(1, 10**7))
@settings(max_examples=60, deadline=None)
def test_a_lane_goes_on_exactly_where_its_segment_follows_in_the_same_source(
    pools: list[int], lanes: int, step: int
) -> None:
    if sum(pools) < lanes:
        return
    order = Streams(pools, lanes, 3)
    everyone = np.arange(lanes)
    now, then = order(step * lanes + everyone), order((step - 1) * lanes + everyone)
    source = np.repeat(np.arange(len(pools)), pools)
    follows = (now == then + 1) & (source[now] == source[then]) & bool(step % order.length)
    assert (order.begins(step, step - 1, everyone) == ~follows).all()
    assert order.begins(step, None, everyone).all()


@given(step=st.integers(0, 10**7), dp=st.sampled_from([1, 2, 3, 4, 6, 12]), seed=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_ranks_share_the_lanes_of_a_step(step: int, dp: int, seed: int) -> None:
    order = Streams([100, 77], 12, seed)
    shared = [order(rank_indices(12 * step, 12, rank, dp)) for rank in range(dp)]
    assert (np.concatenate(shared) == order(rank_indices(12 * step, 12, 0, 1))).all()


def test_lanes_read_the_text_from_segment_to_segment(root: Path) -> None:
    batches = opened(root)
    text = np.concatenate([stream(DOCS["a"]), stream(DOCS["b"])])
    before: dict[str, np.ndarray] = {}
    followed = 0
    for step in range(2 * batches.order.length):  # type: ignore[attr-defined]
        rows = joined(batches.step(step))
        for lane in range(S):
            where = np.flatnonzero((np.lib.stride_tricks.sliding_window_view(text, T) == rows["inputs"][lane]).all(1))
            assert len(where) == 1
            if not rows["begins"][lane]:
                followed += 1
                assert rows["inputs"][lane, 0] == before["targets"][lane, -1]
        before = rows
    batches.close()
    assert followed > 0


@pytest.mark.parametrize("mask", [False, True])
def test_any_ranks_and_micro_batches_from_any_step(root: Path, mask: bool) -> None:
    config = data(root, document_mask=mask)
    alone = opened(root, config=config)
    state = alone.state(9)
    for dp, micro_batch in ((1, 12), (2, 3), (4, 1), (12, 1)):
        ranks = [opened(root, r, dp, config=config, micro_batch=micro_batch, state=state) for r in range(dp)]
        for step in (9, 10, 11, 40):
            shared = [joined(rank.step(step)) for rank in ranks]
            whole = joined(alone.step(step))
            assert ("documents" in whole) == mask
            for name, values in whole.items():
                assert (np.concatenate([rows[name] for rows in shared]) == values).all(), (name, dp)
        for rank in ranks:
            rank.close()
    alone.close()


def test_documents_have_one_number_in_all_segments(root: Path) -> None:
    batches = opened(root, config=data(root, document_mask=True))
    last = np.zeros(S, dtype=np.int64)
    inside = 0
    for step in range(batches.order.length):  # type: ignore[attr-defined]
        rows = joined(batches.step(step))
        numbers, ends = rows["documents"], rows["inputs"] == EOS
        assert (np.diff(numbers, axis=1) == ends[:, 1:]).all()
        goes_on = ~rows["begins"]
        assert (numbers[goes_on, 0] - last[goes_on] == ends[goes_on, 0]).all()
        inside += int((goes_on & ~ends[:, 0]).sum())
        last = numbers[:, -1]
    batches.close()
    assert inside > 0, "no document reaches into a second segment"


def test_epochs_end_with_the_lanes(root: Path) -> None:
    batches = opened(root)
    length = batches.order.length  # type: ignore[attr-defined]
    assert batches.epochs(length) == {"train": 1.0}
    assert batches.ended_passes(length) == {"train": 1} and batches.ended_passes(length - 1) == {}
    assert joined(batches.step(length))["begins"].all() and not joined(batches.step(length - 1))["begins"].all()
    batches.close()


def test_behind_skipped_steps_lanes_begin_anew(root: Path) -> None:
    batches, plain = opened(root, skip_steps=((4, 6),)), opened(root)
    assert (joined(batches.step(4))["inputs"] == joined(plain.step(6))["inputs"]).all()
    assert joined(batches.step(4))["begins"].all() and not joined(batches.step(5))["begins"].all()
    batches.close(), plain.close()


def test_a_checkpoint_of_another_order_is_refused(root: Path) -> None:
    streams, shuffled = opened(root), opened(root, config=data(root, order="shuffled"))
    with pytest.raises(UserError, match=r"data\.order 'streams', this run has 'shuffled'"):
        shuffled.check_state(streams.state(3))
    with pytest.raises(UserError, match=r"data\.order 'shuffled', this run has 'streams'"):
        streams.check_state(shuffled.state(3))
    streams.check_state(streams.state(3))
    streams.close(), shuffled.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"packing": "best_fit"}, "packing best_fit"),
        ({"shuffle_window": 512}, "shuffle_window has no effect"),
        ({"sources": (SourceConfig(name="a", path="x", weight=1.0),)}, "leave the weights out"),
    ],
)
def test_what_streams_cannot_do_is_refused(root: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        data(root, **changes)


def test_ranks_that_cannot_share_the_lanes_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match="12 sequences per step cannot be shared equally by 5 data ranks"):
        opened(root, 0, 5)
