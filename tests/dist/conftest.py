"""One pool of ranks for the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dist.pool import RankPool


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Four ranks that all distributed tests share."""
    pool = RankPool(4)
    yield pool
    pool.close()
