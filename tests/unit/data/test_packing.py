"""Best-fit packing: every pair once, no sequence too full."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.read.packing import pack


@given(pairs=st.lists(st.integers(0, 200), min_size=1, max_size=200), capacity=st.integers(1, 64))
@settings(max_examples=80, deadline=None)
def test_every_pair_is_packed_once_and_nothing_overflows(pairs: list[int], capacity: int) -> None:
    sequence, document, offset, size = pack(np.array(pairs), capacity)
    seen = [np.zeros(n, dtype=int) for n in pairs]
    for d, o, n in zip(document, offset, size, strict=True):
        seen[d][o : o + n] += 1
    assert all((counts == 1).all() for counts in seen)
    if len(sequence):
        filled = np.bincount(sequence, weights=size)
        assert filled.max() <= capacity and filled.min() > 0
        assert (np.diff(sequence) >= 0).all()


@given(pairs=st.lists(st.integers(1, 64), min_size=1, max_size=100))
@settings(max_examples=40, deadline=None)
def test_a_document_that_fits_is_never_cut(pairs: list[int]) -> None:
    _, document, _, size = pack(np.array(pairs), 64)
    assert sorted(document) == list(range(len(pairs)))
    assert (size == np.array(pairs)[document]).all()


def test_little_room_is_left_over() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(1, 1000, size=5000)
    sequence, *_ = pack(pairs, 1024)
    assert pairs.sum() / ((sequence.max() + 1) * 1024) > 0.98
