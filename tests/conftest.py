"""What every test may use."""

from __future__ import annotations

import os
import signal
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


def shared_data(relative: str) -> Path:
    """Return a file of the shared corpora and published tables; skip the test where they are absent."""
    base = Path(os.environ.get("ESCALA_SHARED_DATA", ROOT.parent / "shared" / "data"))
    path = base / relative
    if not path.exists():
        pytest.skip(f"shared data not here: {path} (set ESCALA_SHARED_DATA)")
    return path
