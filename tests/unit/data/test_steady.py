"""Reading that fails or falls silent: no row lost, none twice, no hang, and the source is named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.contract.errors import UserError
from trainer.data.source.retry import steadily


def failing_at(places: list[int], total: int, error: type[Exception] = ConnectionError):
    """Return an opener whose reads break once at each of these rows."""
    left = sorted(places)

    def open_at(skip: int) -> Iterator[int]:
        for row in range(skip, total):
            if left and row == left[0]:
                left.pop(0)
                raise error("reset by peer")
            yield row

    return open_at


@given(places=st.lists(st.integers(0, 39), max_size=6, unique=True))
@settings(max_examples=30, deadline=None)
def test_rows_come_once_however_often_reading_breaks(places: list[int]) -> None:
    pauses: list[float] = []
    rows = steadily(failing_at(places, 40), name="s", retries=7, stall_seconds=30, sleep=pauses.append)
    assert list(rows) == list(range(40))
    assert len(pauses) == len(places)


def test_pauses_grow_and_then_the_source_is_given_up_by_name() -> None:
    pauses: list[float] = []

    def broken(skip: int) -> Iterator[int]:
        raise TimeoutError("read timed out")
        yield

    with pytest.raises(UserError, match="source 'web' failed 4 times in a row after 0 rows: TimeoutError: read timed"):
        list(steadily(broken, name="source 'web'", retries=3, stall_seconds=30, sleep=pauses.append))
    assert [round(pause / 2**k * 2) >= 1 and pause <= 1.5 * 2**k for k, pause in enumerate(pauses)] == [True] * 3


class LimitedError(ConnectionError):
    """What a server answers that limits the rate; libraries raise it, or raise others from it."""

    response = SimpleNamespace(status_code=429, headers={"Retry-After": "30"})


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pause_is_as_long_as_the_server_asks_for(wrapped: bool) -> None:
    pauses: list[float] = []

    def limited(skip: int) -> Iterator[int]:
        if not pauses and wrapped:
            raise ConnectionError("Server Disconnected") from LimitedError("429 Too Many Requests")
        if not pauses:
            raise LimitedError("429 Too Many Requests")
        yield from range(skip, 3)

    assert list(steadily(limited, name="s", retries=1, stall_seconds=30, sleep=pauses.append)) == [0, 1, 2]
    assert len(pauses) == 1 and 30 <= pauses[0] <= 45


def test_a_silent_source_is_named_and_left() -> None:
    release = threading.Event()

    def silent(skip: int) -> Iterator[int]:
        yield 1
        release.wait()

    with pytest.raises(UserError, match=r"source 'slow' gave nothing for 0\.2 s"):
        list(steadily(silent, name="source 'slow'", retries=3, stall_seconds=0.2))
    release.set()


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError])
def test_what_trying_again_cannot_mend_is_reported_at_once(error: type[Exception]) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        list(steadily(failing_at([3], 9, error), name="s", retries=9, stall_seconds=30, sleep=lambda s: 1 / 0))


def test_who_stops_early_ends_the_reading() -> None:
    rows = steadily(lambda skip: iter(range(10**6)), name="endless", retries=3, stall_seconds=30)
    assert next(rows) == 0
    (thread,) = [t for t in threading.enumerate() if t.name == "read endless"]
    rows.close()
    thread.join(timeout=30)
    assert not thread.is_alive()
