"""Where runs are kept unless a command says otherwise, and how a hint names another place."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def default_runs() -> Path:
    """Return $ESCALA_RUNS, or ./runs."""
    return Path(os.environ.get("ESCALA_RUNS", "runs"))


def runs_flag(runs: Path) -> str:
    """Return ` --runs DIR` for commands that follow one with this directory, nothing where it is the default."""
    return "" if runs.resolve() == default_runs().resolve() else f" --runs {shlex.quote(str(runs))}"
