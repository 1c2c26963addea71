"""Where one mixer overtakes another: from the length on at which it stays better, interpolated in logarithms."""

from __future__ import annotations

import pytest

from benchmarks.context import crossing, table

LENGTHS = (64, 128, 256, 512)


def points(*speeds: float) -> list[dict[str, float]]:
    return [
        {"context": n, "tokens_per_second": s, "bytes": 1 / s} for n, s in zip(LENGTHS, speeds, strict=True)
    ]  # fmt: skip


def test_a_crossing_is_interpolated_between_two_lengths():
    falling, flat = points(4, 2, 1, 0.5), points(2**0.5, 2**0.5, 2**0.5, 2**0.5)
    assert crossing(falling, flat) == pytest.approx(128 * 2**0.5)
    assert crossing(falling, flat, "bytes") == pytest.approx(128 * 2**0.5)
    assert crossing(flat, falling) is None


def test_what_is_better_throughout_is_so_from_the_shortest_length_and_ties_are_no_lead():
    assert crossing(points(1, 1, 1, 1), points(2, 2, 2, 2)) == 64
    assert crossing(points(1, 1, 1, 1), points(1, 1, 1, 1)) is None


def test_a_lead_that_is_lost_again_does_not_count():
    assert crossing(points(1, 1, 1, 1), points(2, 2, 0.5, 2)) == pytest.approx(256 * 2**0.5)


def test_the_table_says_so():
    text = table({"attention": points(4, 2, 1, 0.5), "lstm": points(1, 1, 1, 1)}, "tokens_per_second", 1.0)
    assert "| lstm | 1.0 | 1.0 | 1.0 | 1.0 | 256 |" in text
