"""Held-out sequences in lanes: the targets of every evaluation, each with the text before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.data.builders import random_docs, write_set
from trainer.data.read.batches import MicroBatch, held_out
from trainer.data.read.held_out_lanes import WARM_UP, held_out_lanes, reading_of
from trainer.data.store.token_set import TokenSet

T = 8


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    path = tmp_path_factory.mktemp("data") / "made"
    write_set(path, {"a": random_docs(1, 20)}, shard_tokens=300, held_out=random_docs(3, 60))
    return TokenSet.open(path, "held_out")


def targets(batches: list[MicroBatch]) -> list[tuple[int, ...]]:
    """Return the evaluated rows, sorted."""
    rows = [
        tuple(inputs.tolist())
        for batch in batches
        for inputs, weights in zip(batch.inputs, batch.weights, strict=True)  # type: ignore[arg-type]
        if weights.any()
    ]
    return sorted(rows)


@pytest.mark.parametrize("tokens", [5 * T, 40 * T, 10**6])
@pytest.mark.parametrize(("lanes", "micro_batch", "dp"), [(1, 1, 1), (4, 2, 1), (4, 1, 2), (6, 4, 2), (64, 8, 1)])
def test_the_targets_are_those_of_every_evaluation(
    split: TokenSet, tokens: int, lanes: int, micro_batch: int, dp: int
) -> None:
    ranks = [[*held_out_lanes(split, T, tokens, micro_batch, r, dp, lanes=lanes)] for r in range(dp)]
    assert len({len(batches) for batches in ranks}) == 1
    assert {batch.inputs.shape for batches in ranks for batch in batches} == {(micro_batch, T)}
    assert targets([b for batches in ranks for b in batches]) == targets([*held_out(split, T, tokens, 4)])


@pytest.mark.parametrize("tokens", [5 * T, 40 * T, 10**6])
def test_what_a_target_sees_does_not_depend_on_ranks_and_micro_batches(split: TokenSet, tokens: int) -> None:
    def seen(micro_batch: int, dp: int) -> set[tuple[int, ...]]:
        """Return, of each evaluated row, all that its lane had read since it began."""
        found = set()
        for rank in range(dp):
            lanes: list[list[int]] = [[] for _ in range(micro_batch)]
            for batch in held_out_lanes(split, T, tokens, micro_batch, rank, dp, lanes=6):
                assert batch.begins is not None and batch.weights is not None
                for lane in range(micro_batch):
                    if batch.begins[lane]:
                        lanes[lane] = []
                    elif lanes[lane]:
                        assert batch.inputs[lane, 0] == lanes[lane][-1], "not what follows"
                    lanes[lane] = [
                        *(lanes[lane][:-1] or []),
                        *batch.inputs[lane].tolist(),
                        int(batch.targets[lane, -1]),
                    ]
                    if batch.weights[lane].any():
                        found.add(tuple(lanes[lane]))
        return found

    assert seen(6, 1) == seen(1, 2) == seen(4, 2) == seen(2, 3)
    assert min(len(text) for text in seen(6, 1)) <= (WARM_UP + 1) * T + 1


@given(
    segments=st.sets(st.integers(0, 60), min_size=1).map(sorted),
    pools=st.lists(st.integers(1, 30), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 60),
)
@settings(max_examples=100, deadline=None)
def test_a_lane_reads_the_text_before_each_target(segments: list[int], pools: list[int]) -> None:
    firsts = np.cumsum([0, *pools[:-1]])
    read, weights, begins = reading_of(np.array(segments), firsts)
    assert [int(s) for s, w in zip(read, weights, strict=True) if w] == segments
    history = 0
    for n, segment in enumerate(read):
        assert begins[n] or (segment == read[n - 1] + 1 and segment not in firsts)
        history = 0 if begins[n] else history + 1
        if weights[n]:
            in_source = segment - max(first for first in firsts if first <= segment)
            assert history >= min(WARM_UP, in_source)


def test_documents_are_numbered_on(split: TokenSet) -> None:
    last: torch.Tensor | None = None
    for batch in held_out_lanes(split, T, 10**6, 4, lanes=4, documents=True):
        assert batch.documents is not None and batch.begins is not None
        if last is not None:
            steps = (batch.documents[:, 0] - last)[~batch.begins]
            assert ((steps == 0) | (steps == 1)).all()
        last = batch.documents[:, -1]
