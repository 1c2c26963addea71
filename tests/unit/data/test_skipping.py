"""Skipped steps: what is left is read in its order, and nothing that was trained on shifts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.contract.errors import UserError
from trainer.data.order.skipping import data_step, join_ranges, parse_ranges

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=5).map(
    lambda pairs: parse_ranges([f"{begin}:{begin + length}" for begin, length in pairs])
)


@given(ranges=RANGES)
@settings(max_examples=80, deadline=None)
def test_exactly_the_other_steps_are_read_in_order(ranges: tuple[tuple[int, int], ...]) -> None:
    left = [step for step in range(200) if not any(begin <= step < end for begin, end in ranges)]
    assert [data_step(step, ranges) for step in range(100)] == left[:100]


@given(ranges=RANGES, step=st.integers(0, 60), begin=st.integers(0, 90))
@settings(max_examples=80, deadline=None)
def test_joining_never_moves_what_was_read(ranges: tuple[tuple[int, int], ...], step: int, begin: int) -> None:
    try:
        joined = join_ranges(ranges, ((begin, begin + 5),), step)
    except UserError:
        assert begin < data_step(step, ranges)
        return
    assert [data_step(s, joined) for s in range(step)] == [data_step(s, ranges) for s in range(step)]


@pytest.mark.parametrize("text", ["5", "9:4", "a:b", "3:3", "-1:4"])
def test_a_bad_range_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="such as 1200:1210"):
        parse_ranges([text])
