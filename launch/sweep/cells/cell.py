"""One run of a sweep, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.checkpoint.manifest import checkpoint_name
from trainer.config.run import RunConfig


@dataclass(frozen=True)
class Branch:
    """Where a cell parts from its trunk: the trunk's id, and the optimizer steps that they share."""

    trunk: str
    step: int

    def checkpoint(self, cells: Path) -> Path:
        """Return the trunk's checkpoint there, below the directory of the sweep's cells."""
        return cells / self.trunk / "checkpoints" / checkpoint_name(self.step)


@dataclass(frozen=True)
class Cell:
    """One run of a sweep. A check is a second run of another cell, at another layout."""

    id: str
    settings: dict[str, Any]
    config: RunConfig
    check_of: str | None = None
    tolerance: float | None = None
    branch: Branch | None = None
    purpose: Literal["law", "tuning"] = "law"
    knob: str = ""  # that a run of a tuning is for
    former: str = ""  # its id before names were hashes of the resolved plan: `former.py`
