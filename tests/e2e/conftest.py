"""One pool of warm ranks, and one prepared token set, for all tests that start ranks themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.cluster.local.warm import RankPool
from launch.run.data_preparation import resolve
from tests.e2e.ranks import configuration, make_pool


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory under which the data of `configuration` are prepared."""
    root = tmp_path_factory.mktemp("prepared")
    resolve(configuration(root, 1))
    return root


@pytest.fixture(scope="session")
def rank_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    """Return warm ranks."""
    pool = make_pool(tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.close()
