"""The order of samples: each once an epoch, independent of ranks and of everything but the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.contract.errors import UserError
from trainer.data.order.order import permute, rank_indices, shuffled, shuffled_in_windows, stream_keys

SEEDS = st.integers(0, 2**63)


@given(size=st.integers(1, 3000), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_an_epoch_holds_each_sample_once(size: int, seed: int) -> None:
    ids = shuffled(np.arange(3 * size), size, seed).reshape(3, size)
    assert (np.sort(ids, axis=1) == np.arange(size)).all()


@given(size=st.integers(1, 2000), seed=SEEDS, window=st.integers(1, 3000), chunk=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_an_epoch_in_windows_holds_each_sample_once(size: int, seed: int, window: int, chunk: int) -> None:
    ids = shuffled_in_windows(np.arange(2 * size), size, seed, window, chunk).reshape(2, size)
    assert (np.sort(ids, axis=1) == np.arange(size)).all()


def test_a_window_stays_within_few_chunks() -> None:
    ids = shuffled_in_windows(np.arange(10_000), 10_000, seed=1, window=800, chunk=100)
    for begin in range(0, 9_600, 800):
        assert len(np.unique(ids[begin : begin + 800] // 100)) == 8


@given(
    size=st.integers(1, 10**12),
    seed=SEEDS,
    step=st.integers(0, 10**6),
    sizes=st.sampled_from([(2, 1), (2, 4), (4, 2), (8, 1), (6, 3), (1, 6)]),
)
@settings(max_examples=60, deadline=None)
def test_the_global_order_does_not_depend_on_the_ranks(size: int, seed: int, step: int, sizes: tuple[int, int]) -> None:
    def whole(dp_size: int) -> np.ndarray:
        ranks = range(dp_size)
        return np.concatenate([shuffled(rank_indices(24 * step, 24, r, dp_size), size, seed) for r in ranks])

    assert (whole(sizes[0]) == whole(sizes[1])).all()


@given(seed=SEEDS, size=st.integers(1, 5000), cut=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_another_batch_size_reads_the_same_order(seed: int, size: int, cut: int) -> None:
    def stream(per_step: int, steps: int) -> np.ndarray:
        stretches = (rank_indices(step * per_step, per_step, 0, 1) for step in range(steps))
        return np.concatenate([shuffled(stretch, size, seed) for stretch in stretches])

    assert (stream(6, 20) == stream(12, 10)).all()
    assert (stream(6, 20)[: 6 * cut] == stream(6, cut)).all()


def test_epochs_and_seeds_differ() -> None:
    a, b = shuffled(np.arange(1000), 500, 1).reshape(2, 500)
    c = shuffled(np.arange(500), 500, 2)
    for x, y in ((a, b), (a, c)):
        assert (x == y).mean() < 0.02


def test_neighbours_are_spread_like_chance() -> None:
    """In a random permutation of n, |difference of neighbours| < d has probability about 2 d / n."""
    n, d = 200_000, 1000
    ids = shuffled(np.arange(n), n, 3)
    near = (np.abs(np.diff(ids)) < d).mean()
    assert near == pytest.approx(2 * d / n, rel=0.1)


def test_every_place_of_a_small_set_is_as_likely() -> None:
    counts = np.zeros((6, 6))
    seeds = 4000
    for seed in range(seeds):
        counts[np.arange(6), shuffled(np.arange(6), 6, seed)] += 1
    expected = seeds / 6
    assert ((counts - expected) ** 2 / expected).sum() < 60  # chi-squared, 25 degrees of freedom: p < 1e-4 beyond


def test_a_set_of_10_to_the_12_needs_no_memory_for_it() -> None:
    ids = shuffled(rank_indices(512 * 10**9, 512, 3, 8), 10**12, 7)
    assert ids.shape == (64,) and ids.min() >= 0 and ids.max() < 10**12


@given(size=st.integers(2, 400), keys=st.lists(SEEDS, min_size=2, max_size=4, unique=True))
@settings(max_examples=30, deadline=None)
def test_each_key_permutes_by_itself(size: int, keys: list[int]) -> None:
    values = np.tile(np.arange(size), len(keys))
    images = permute(values, size, np.repeat([stream_keys(key) for key in keys], size)).reshape(len(keys), size)
    assert (np.sort(images, axis=1) == np.arange(size)).all()


def test_a_step_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match="10 sequences per step cannot be shared equally by 4"):
        rank_indices(0, 10, 0, 4)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(UserError, match="no sample"):
        shuffled(np.arange(3), 0, 1)
