"""One pool of ranks for each file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dist.pool import RankPool


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    """Four ranks that the tests of a file share."""
    pool = RankPool(4)
    yield pool
    pool.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the full parity matrix out unless it is asked for by its marker: it takes as long as all other tests."""
    if "full_parity" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("full_parity")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how far the cells of the full parity matrix were from one process."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    found = [(value, r.nodeid) for r in reports for key, value in r.user_properties if key == "parity"]
    if found:
        terminalreporter.write_line(f"{len(found)} cells of the parity matrix; largest differences from one process:")
        for index, what in enumerate(("loss", "gradient norm, relative")):
            value, cell = max((differences[index], cell) for differences, cell in found)
            terminalreporter.write_line(f"  {what}: {value:.2e} in {cell}")
