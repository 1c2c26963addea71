"""Where torch keeps what it compiles: its own choice is a directory in /tmp, made by the import alone, which stays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def with_compile_cache(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of ranks with torch's cache below the user's, where that can be written."""
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home(), ".cache")
    directory = Path(home, "escala", "torchinductor")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:  # a container without a home
        return dict(environment)
    return {VARIABLE: str(directory), **environment}
