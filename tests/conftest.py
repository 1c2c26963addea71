"""What every test may use."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch and numpy read it. Threads of several workers on the same cores spend their time waiting for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Examples have no time limit: a busy machine would miss it.
settings.register_profile("escala", deadline=None)
settings.load_profile("escala")

# A shell starts a suite in the background with Ctrl-C ignored, which everything that the suite starts would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
WORK = {"slow": 30, "e2e": 8}  # seconds or so, by a test's marks


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: gzip notes the second in which it packs, and workers must agree on names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with the longest tests first, so that workers that share out whole files end together."""
    longest, whole = Counter[Path](), Counter[Path]()
    for item in items:
        ranks = "ranks" in getattr(item, "fixturenames", ())
        work = max((WORK[mark.name] for mark in item.iter_markers() if mark.name in WORK), default=3 if ranks else 1)
        longest[item.path] = max(longest[item.path], work)
        whole[item.path] += work
    items.sort(key=lambda item: (-longest[item.path], -whole[item.path], item.path))  # stable: a file keeps its order


def shared_data(relative: str) -> Path:
    """Return a file of the shared corpora and published tables; skip the test where they are absent."""
    base = Path(os.environ.get("ESCALA_SHARED_DATA", ROOT.parent / "shared" / "data"))
    path = base / relative
    if not path.exists():
        pytest.skip(f"shared data not here: {path} (set ESCALA_SHARED_DATA)")
    return path
