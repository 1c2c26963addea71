"""Mixtures: exact proportions in every block, each source read in order, stages that go on where the last left off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.contract.errors import UserError
from trainer.data.order.mixture import BLOCK, Mixture, Stage, block_places
from trainer.data.order.order import Ids, shuffled

WEIGHTS = st.lists(st.floats(0.05, 1.0), min_size=2, max_size=5).map(tuple)


def in_order(number: int, indices: Ids) -> Ids:
    return indices


def mixture(weights: tuple[float, ...], *later: Stage, seed: int = 0) -> Mixture:
    return Mixture([10**9] * len(weights), [Stage(0, weights), *later], seed, in_order)


@given(weights=WEIGHTS, seed=st.integers(0, 2**32), block=st.integers(0, 10**9))
@settings(max_examples=40, deadline=None)
def test_each_block_holds_the_exact_share_of_each_source(weights: tuple[float, ...], seed: int, block: int) -> None:
    source, _ = mixture(weights, seed=seed).assign(np.arange(block * BLOCK, (block + 1) * BLOCK))
    expected = np.array(weights) / sum(weights) * BLOCK
    assert (np.abs(np.bincount(source, minlength=len(weights)) - expected) < 1).all()


@given(weights=WEIGHTS, seed=st.integers(0, 2**32), begin=st.integers(0, 5000), length=st.integers(1, 3000))
@settings(max_examples=40, deadline=None)
def test_each_source_is_read_without_gap_or_repeat(
    weights: tuple[float, ...], seed: int, begin: int, length: int
) -> None:
    """Also over a change of weights, at any place."""
    later = Stage(begin + length // 2, tuple(reversed(weights)))
    mixed = mixture(weights, later, seed=seed)
    source, position = mixed.assign(np.arange(begin, begin + length))
    before, after = mixed.counts(begin), mixed.counts(begin + length)
    for number in range(len(weights)):
        assert (position[source == number] == np.arange(before[number], after[number])).all()
    assert after.sum() == begin + length


def test_any_position_is_found_alone() -> None:
    mixed = mixture((0.7, 0.2, 0.1), Stage(5000, (0.1, 0.0, 0.9)))
    everything = mixed(np.arange(9000))
    for k in (0, 1023, 1024, 4999, 5000, 8999):
        assert mixed(np.array([k]))[0] == everything[k]


def test_samples_are_numbered_through_and_epochs_are_whole() -> None:
    sizes = [100, 300]
    mixed = Mixture(sizes, [Stage(0, (1.0, 1.0))], 5, lambda number, i: shuffled(i, sizes[number], number))
    ids = mixed(np.arange(4 * BLOCK))
    first = ids[ids < 100]
    assert (np.sort(first[:100]) == np.arange(100)).all()  # one epoch of the first source before its next
    assert len(first) == 2 * BLOCK
    assert ids.max() < 400


def test_a_source_with_weight_zero_is_not_read() -> None:
    source, _ = mixture((1.0, 1.0), Stage(100, (0.0, 3.0))).assign(np.arange(100, 5000))
    assert (source == 1).all()


def test_too_small_a_share_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"tiny of the mixture has a share of 1\.00e-06"):
        block_places((1.0, 1e-6), ["big", "tiny"])


def test_an_empty_source_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="french of the mixture is shorter than one sequence"):
        Mixture([5, 0], [Stage(0, (1.0, 1.0))], 0, in_order, names=["english", "french"])
