"""A fixed sample of mutated configurations; `python -m tests.launch.mutated_configs` runs thousands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.mutated_configs import failures, small_set

SAMPLE = 120


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_set(tmp_path_factory.mktemp("small"))


def test_no_mutated_configuration_ends_in_a_traceback(tmp_path: Path, prepared: Path) -> None:
    assert failures(range(SAMPLE), 0, prepared, tmp_path) == {}
